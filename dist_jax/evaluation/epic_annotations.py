"""EPIC-KITCHENS-100 annotations for the evaluation: labels by narration id, unseen participants, tail classes."""

import dataclasses
import os
import re
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from dist_jax.errors import UserError
from dist_jax.files import exists, read_text
from dist_jax.video.video_list import csv_rows

NUM_VERBS, NUM_NOUNS = 97, 300
_UNSEEN = "EPIC_100_unseen_participant_ids_validation.csv"
_TAIL = {"verb": "EPIC_100_tail_verbs.csv", "noun": "EPIC_100_tail_nouns.csv"}
_LISTED_IDS = 5  # narration ids in a message


@dataclasses.dataclass(frozen=True)
class EpicLabels:
    """Labels of n action segments. The narration ids are unique."""

    narration_ids: Sequence[str]  # n
    participants: Sequence[str]  # n, e.g. P01
    verbs: np.ndarray  # int32 [n]
    nouns: np.ndarray  # int32 [n]

    def select(self, narration_ids: Sequence[str]) -> "EpicLabels":
        """The labels of `narration_ids`, in their order. Raises UserError if one of them is not annotated."""
        unknown = missing_ids(narration_ids, self.narration_ids)
        if unknown:
            raise UserError(f"the annotations do not contain {format_ids(unknown)}; use the annotations of this split")
        row_of = {name: row for row, name in enumerate(self.narration_ids)}
        rows = [row_of[name] for name in narration_ids]
        return EpicLabels(narration_ids, [self.participants[row] for row in rows], self.verbs[rows], self.nouns[rows])


@dataclasses.dataclass(frozen=True)
class EpicGroups:
    """Segments with their own metrics. A group is empty if the annotations do not name it."""

    unseen_participants: frozenset[str] = frozenset()  # without videos in the training set
    tail_verbs: frozenset[int] = frozenset()
    tail_nouns: frozenset[int] = frozenset()


NO_GROUPS = EpicGroups()


def read_labels(path: str) -> EpicLabels:
    """Reads EPIC_100_validation.csv or EPIC_100_train.csv.

    Raises:
        UserError: a column is missing, a verb or noun is missing or not a class, or a narration id is not unique.
    """
    rows = csv_rows(path, read_text(path), ("narration_id", "participant_id", "verb_class", "noun_class"))
    narration_ids = _narration_ids(path, rows)
    verbs = [_class_number(row["verb_class"], "verb", f"{path}, line {line}") for line, row in rows]
    nouns = [_class_number(row["noun_class"], "noun", f"{path}, line {line}") for line, row in rows]
    participants = [row["participant_id"] for _, row in rows]
    return EpicLabels(narration_ids, participants, np.asarray(verbs, np.int32), np.asarray(nouns, np.int32))


def read_narration_ids(path: str) -> list[str]:
    """The narration ids of an annotation file with or without labels, e.g. EPIC_100_test_timestamps.csv.

    Raises UserError if there are none or one of them is not unique.
    """
    return _narration_ids(path, csv_rows(path, read_text(path), ("narration_id",)))


def read_groups(folder: str) -> EpicGroups:
    """Unseen participants and tail classes from the folder of the annotations, as far as it contains their files.

    Raises:
        UserError: a file is invalid, or only one of the two files of tail classes exists.
    """
    participants = _column(os.path.join(folder, _UNSEEN), "participant_id")
    tail = {kind: _column(os.path.join(folder, name), kind) for kind, name in _TAIL.items()}
    absent = [kind for kind in _TAIL if not tail[kind]]
    if len(absent) == 1:
        raise UserError(
            f"{folder}: no {_TAIL[absent[0]]}; tail actions need the tail verbs and the tail nouns: add it, or remove "
            f"{' and '.join(_TAIL[kind] for kind in _TAIL if kind not in absent)}"
        )
    classes = {
        kind: frozenset(_class_number(text, kind, location) for location, text in rows) for kind, rows in tail.items()
    }
    return EpicGroups(frozenset(text for _, text in participants), classes["verb"], classes["noun"])


def check_unique(narration_ids: Iterable[str], source: str) -> None:
    """Raises UserError for the first narration id that occurs twice in `source`."""
    seen: set[str] = set()
    for name in narration_ids:
        if name in seen:
            raise UserError(f"{source}: the narration id {name!r} occurs twice; it must be unique")
        seen.add(name)


def missing_ids(expected: Iterable[str], found: Collection[str]) -> list[str]:
    """The ids of `expected` that are not in `found`, in their order."""
    known = set(found)
    return [name for name in expected if name not in known]


def format_ids(narration_ids: Sequence[str]) -> str:
    """Their number and the first ones: "7 narration ids (P01_11_0, P01_11_1, P01_11_2, P01_11_3, P01_11_4, ...)"."""
    number = len(narration_ids)
    names = ", ".join([*narration_ids[:_LISTED_IDS], *(["..."] if number > _LISTED_IDS else [])])
    return f"{number:,} narration id{'' if number == 1 else 's'} ({names})"


def _narration_ids(path: str, rows: Sequence[tuple[int, dict[str, str]]]) -> list[str]:
    if not rows:
        raise UserError(f"{path}: contains no action segments; use a published annotation file")
    first_lines: dict[str, int] = {}
    for line, row in rows:
        name = row["narration_id"]
        if not name:
            raise UserError(f"{path}, line {line}: narration_id is empty; write an id like P01_11_0")
        if name in first_lines:
            raise UserError(
                f"{path}: lines {first_lines[name]} and {line} have the same narration id {name!r}; remove one"
            )
        first_lines[name] = line
    return list(first_lines)


def _class_number(text: str, kind: str, location: str) -> int:
    last = {"verb": NUM_VERBS, "noun": NUM_NOUNS}[kind] - 1
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > last:
        raise UserError(
            f"{location}: the {kind} class is {text!r}; it must be a number from 0 to {last}, and every "
            "segment needs a verb and a noun"
        )
    return int(text)


def _column(path: str, column: str) -> list[tuple[str, str]]:
    """(location, value) of each row; [] if the file does not exist."""
    if not exists(path):
        return []
    rows = [(f"{path}, line {line}", row[column]) for line, row in csv_rows(path, read_text(path), (column,))]
    if not rows:
        raise UserError(f"{path}: contains no rows; remove this file or use the published one")
    return rows
