"""Clips from DMVR-format TFRecords (data.source=records)."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import ml_collections
import numpy as np

from dist_jax import class_names as names_file
from dist_jax import files
from dist_jax.data import record_index, records
from dist_jax.data.encoded_clips import read_context, sequence_source
from dist_jax.data.source import Source, label_names
from dist_jax.errors import UserError, warn

LABEL_FEATURES = {"label": records.LABEL, "verb": records.VERB, "noun": records.NOUN}  # label name -> feature
CLASS_NAME_FILES = {"label": "labels.txt", "verb": "verbs.txt", "noun": "nouns.txt"}  # written by build_records

_NUM_CHECKED = 32  # records whose class names are checked before a run


def open_source(data: ml_collections.ConfigDict, split: str, class_names: Mapping[str, Sequence[str]]) -> Source:
    """Opens the shards of data.train or data.val. `class_names` has K names for each label, by label name.

    Raises:
        UserError: missing, truncated or changed shards; no records; records with different class names.
    """
    index = record_index.load_index(data[split])
    if "label" in class_names:
        _check_class_names(index, class_names["label"])
    label_features = {name: LABEL_FEATURES[name] for name in class_names}
    num_classes = {name: len(names) for name, names in class_names.items()}
    source = sequence_source(index, label_features, num_classes)
    return dataclasses.replace(source, seconds=partial(_seconds, index))


def class_names(data: ml_collections.ConfigDict) -> dict[str, list[str]]:
    """Returns the names in labels.txt, or in verbs.txt and nouns.txt, next to the training records.

    Raises:
        UserError: a file is missing or invalid.
    """
    folder = data.train if files.is_folder(data.train) else os.path.dirname(data.train)
    return {name: _read_class_names(data, os.path.join(folder, CLASS_NAME_FILES[name])) for name in label_names(data)}


def _read_class_names(data: ml_collections.ConfigDict, path: str) -> list[str]:
    if not files.exists(path):
        raise UserError(
            f"{path} does not exist; set data.class_names_file to a file of class names, one per line"
            f"{_example_name(data)}"
        )
    return names_file.parse(files.read_text(path), path)


def _seconds(index: record_index.ShardIndex, record: int) -> float | None:
    """Length of a clip from the times in its record; None: it has no times."""
    context = read_context(index, record)
    if context is None:
        return None
    start, end = (context.feature[name].int64_list.value for name in (records.START, records.END))
    return (end[0] - start[0]) / 1e6 if start and end and end[0] > start[0] else None


def _check_class_names(index: record_index.ShardIndex, class_names: Sequence[str]) -> None:
    """Compares the class names stored in some records with `class_names`. Records may have no class names.

    A stored name that is not in `class_names` gives a warning, because the new name can be a better text for CLIP. A
    stored name that belongs to another class raises UserError.
    """
    numbers = {_normalize(name): number for number, name in enumerate(class_names)}
    warned = False
    for record, number, text in _stored_labels(index):
        if not 0 <= number < len(class_names) or _normalize(class_names[number]) == _normalize(text):
            continue
        conflict = (
            f"class {number} is {text!r} in {index.location(record)}, but {class_names[number]!r} in the class names"
        )
        if _normalize(text) in numbers:
            raise UserError(
                f"{conflict}, where {text!r} is class {numbers[_normalize(text)]}: set data.class_names_file to the "
                "class names of these records"
            )
        if not warned:
            warn(f"{conflict}; check that data.class_names_file belongs to these records")
            warned = True


def _stored_labels(index: record_index.ShardIndex) -> Iterator[tuple[int, int, str]]:
    """Record, class number and class name of evenly spaced records that have both."""
    for record in np.unique(np.linspace(0, len(index) - 1, _NUM_CHECKED).astype(int)).tolist():
        context = read_context(index, record)
        if context is not None:
            numbers = context.feature[records.LABEL].int64_list.value
            texts = context.feature[records.LABEL_TEXT].bytes_list.value
            if len(numbers) == len(texts):
                yield from ((record, n, t.decode(errors="replace")) for n, t in zip(numbers, texts, strict=True))


def _example_name(data: ml_collections.ConfigDict) -> str:
    """A class name from the training records, as a hint for the error message; "" if there is none."""
    if data.label_key != "label":
        return ""
    try:
        label = next(_stored_labels(record_index.load_index(data.train)), None)
    except UserError:  # missing records are reported when they are opened
        return ""
    return "" if label is None else f"; the records contain {records.LABEL_TEXT}, e.g. class {label[1]}: {label[2]!r}"


def _normalize(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())
