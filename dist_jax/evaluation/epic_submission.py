"""The file of the EPIC-KITCHENS-100 action recognition challenge, which is uploaded as test.json in a zip file."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dist_jax.errors import UserError
from dist_jax.evaluation.epic import NUM_BEST_ACTIONS, EpicScores, best_actions
from dist_jax.evaluation.epic_annotations import NUM_NOUNS, NUM_VERBS, format_ids, missing_ids
from dist_jax.evaluation.view_scores import sum_views
from dist_jax.files import read_text, write_text

VERSION, CHALLENGE = "0.2", "action_recognition"
_CLASSES = {"verb": [str(i) for i in range(NUM_VERBS)], "noun": [str(i) for i in range(NUM_NOUNS)]}
_SUPERVISION = ("sls_pt", "sls_tl", "sls_td")


def write_submission(path: str, scores: EpicScores, sls_pt: int, sls_tl: int, sls_td: int) -> None:
    """Writes the challenge file atomically: all verb and noun scores and the 100 best actions of each segment.

    Args:
        path: a JSON file, local or remote.
        scores: of the test set. The file contains their sums over views with nine digits.
        sls_pt: supervision of the pre-training. 0 none, 1 public images, 2 public images and videos, 3 public data
          self-supervised, 4 the same with EPIC-KITCHENS, 5 private data.
        sls_tl: training labels. 0 none, 1 of videos, 2 narration timestamps, 3 start and end of each action, 4 spatial
          annotations, 5 more.
        sls_td: training data. 0 none (zero-shot), 1 five examples per class, 2 a quarter of the training set, 3 the
          training set, 4 training and validation set, 5 more.

    Raises:
        UserError: a level is not an integer from 0 to 5, or the file cannot be written.
    """
    head = {"version": VERSION, "challenge": CHALLENGE, "sls_pt": sls_pt, "sls_tl": sls_tl, "sls_td": sls_td}
    _check_head(head, path)
    actions, action_scores = best_actions(scores)
    verbs, nouns = sum_views(scores.verbs), sum_views(scores.nouns)
    segments = []
    for row, name in enumerate(scores.narration_ids):
        values = {
            "verb": _scores_text(_CLASSES["verb"], verbs[row]),
            "noun": _scores_text(_CLASSES["noun"], nouns[row]),
            "action": _scores_text((f"{verb},{noun}" for verb, noun in actions[row].tolist()), action_scores[row]),
        }
        parts = ", ".join(f'"{kind}": {text}' for kind, text in values.items())
        segments.append(f"{json.dumps(name)}: {{{parts}}}")
    results = ",\n".join(segments)
    write_text(path, f'{json.dumps(head)[:-1]}, "results": {{\n{results}\n}}}}\n')


def check_submission(path: str, narration_ids: Sequence[str] | None = None) -> None:
    """Checks a challenge file by the rules of the challenge server. The 100 best actions are required.

    Args:
        path: a JSON file, local or remote.
        narration_ids: of the test set (see `epic_annotations.read_narration_ids`). None: any ids.

    Raises:
        UserError: the first error, in one line.
    """
    submission = _parse_json(path)
    if not isinstance(submission, dict):
        raise UserError(
            f"{path}: must be a JSON object with the keys version, challenge, sls_pt, sls_tl, sls_td, results"
        )
    _check_head(submission, path)
    results = submission.get("results")
    if not isinstance(results, dict) or not results:
        raise UserError(f"{path}: results must be an object with the scores of each narration id")
    if narration_ids is not None:
        absent, unexpected = missing_ids(narration_ids, results), missing_ids(results, narration_ids)
        if absent:
            raise UserError(
                f"{path}: no scores for {format_ids(absent)}; the challenge needs all {len(narration_ids):,}"
            )
        if unexpected:
            raise UserError(
                f"{path}: {format_ids(unexpected)} are not in the annotations; use the scores of this split"
            )
    for name, segment in results.items():
        _check_segment(segment, f"{path}, {name}")


def _scores_text(keys: Iterable[str], scores: np.ndarray) -> str:
    """A JSON object. Nine digits identify a float32 number."""
    return "{" + ", ".join(f'"{key}": {score:.9g}' for key, score in zip(keys, scores.tolist(), strict=True)) + "}"


def _parse_json(path: str) -> Any:
    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated = next(key for key in keys if keys.count(key) > 1)
            raise UserError(f"{path}: the key {repeated!r} occurs twice in an object; remove one")
        return values

    def reject(constant: str) -> None:
        raise UserError(f"{path}: contains {constant}, which is not JSON; every score must be a finite number")

    try:
        return json.loads(read_text(path), object_pairs_hook=unique_keys, parse_constant=reject)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON ({error})") from error


def _check_head(submission: dict[str, Any], path: str) -> None:
    for key, expected in (("version", VERSION), ("challenge", CHALLENGE)):
        if submission.get(key) != expected:
            raise UserError(f"{path}: {key} is {submission.get(key)!r}; it must be {expected!r}")
    for key in _SUPERVISION:
        if type(submission.get(key)) is not int or not 0 <= submission[key] <= 5:
            raise UserError(f"{path}: {key} is {submission.get(key)!r}; it must be an integer from 0 to 5")


def _check_segment(segment: Any, location: str) -> None:
    kinds = ("verb", "noun", "action")
    if not isinstance(segment, dict) or not all(isinstance(segment.get(kind), dict) for kind in kinds):
        raise UserError(f"{location}: must be an object with the objects verb, noun and action")
    for kind, classes in _CLASSES.items():
        absent, unknown = missing_ids(classes, segment[kind]), missing_ids(segment[kind], classes)
        if absent or unknown:
            problem = f"{kind} {absent[0]} has no score" if absent else f"{unknown[0]!r} is not a {kind} class"
            raise UserError(f"{location}: {problem}; write one score for each of the classes 0 to {len(classes) - 1}")
    if len(segment["action"]) != NUM_BEST_ACTIONS:
        raise UserError(f"{location}: {len(segment['action'])} actions; the challenge needs {NUM_BEST_ACTIONS}")
    for action in segment["action"]:
        match = re.fullmatch(r"(0|[1-9][0-9]*),(0|[1-9][0-9]*)", action)
        if not match or match[1] not in segment["verb"] or match[2] not in segment["noun"]:
            raise UserError(
                f"{location}: {action!r} is not an action; write VERB,NOUN, two class numbers without spaces"
            )
    for kind in kinds:
        for key, score in segment[kind].items():
            if type(score) not in (int, float) or not abs(score) <= sys.float_info.max:
                raise UserError(f"{location}: the score of {kind} {key} is {score!r}; it must be a finite number")
