"""Clips from DMVR-format TFRecords (data.source=records)."""

import os
import re
from collections.abc import Iterator, Sequence

import ml_collections
import numpy as np

from dist_jax import class_names as names_file
from dist_jax import files
from dist_jax.data import frame_reader, record_index, records
from dist_jax.data.encoded_clips import encoded_source, record_parser
from dist_jax.data.source import Source
from dist_jax.errors import UserError, warn

LABEL_KEYS = {"label": records.LABEL, "verb": records.VERB, "noun": records.NOUN}  # data.label_key -> key of the record

_LARGE = 1 << 20  # bytes of a record
_LOOKED_AT = 32  # records whose class names are compared before a run


def open_source(data: ml_collections.ConfigDict, split: str, class_names: Sequence[str]) -> Source:
    """Opens the shards that data.SPLIT names.

    Raises:
        UserError: missing, truncated or changed shards; an empty set; records whose class names are others.
    """
    index = record_index.load_index(data[split])
    if data.label_key == "label":
        _check_names(index, class_names)
    if is_large(index):
        return frame_reader.open_source(index, LABEL_KEYS[data.label_key], len(class_names))
    return encoded_source(index, record_parser(LABEL_KEYS[data.label_key]), len(class_names))


def class_names(data: ml_collections.ConfigDict) -> list[str]:
    """Returns the K names in labels.txt next to the training records. Raises UserError if it is missing."""
    folder = data.train if files.is_folder(data.train) else os.path.dirname(data.train)
    path = os.path.join(folder, "labels.txt")
    if not files.exists(path):
        raise UserError(
            f"{path} does not exist; set data.class_names_file to a file of class names, one per line{_hint(data)}"
        )
    return names_file.parse(files.read_text(path), path)


def is_large(index: record_index.ShardIndex) -> bool:
    """Whether looking for the chosen frames beats reading whole records: they are large, and in local files."""
    return index.length.mean() > _LARGE and not any("://" in path for path in index.paths)


def _check_names(index: record_index.ShardIndex, names: Sequence[str]) -> None:
    """Compares what some records call their classes with the names that count; records need not say it.

    A name that no class has may be meant, a better text for CLIP: that is a warning. The name of another class is not.
    """
    plain = {_plain(name): number for number, name in enumerate(names)}
    warned = False
    for record, number, text in _named_labels(index):
        if not 0 <= number < len(names) or _plain(names[number]) == _plain(text):
            continue
        said = f"{index.where(record)} calls class {number} {text!r}, the class names {names[number]!r}"
        if _plain(text) in plain:
            raise UserError(
                f"{said}, and {text!r} is their class {plain[_plain(text)]}: give the file that belongs to these "
                "records as data.class_names_file"
            )
        if not warned:
            warn(f"{said}: is it the file (data.class_names_file) that belongs to these records?")
            warned = True


def _named_labels(index: record_index.ShardIndex) -> Iterator[tuple[int, int, str]]:
    """Record, class number and class name of some records that say both, spread over the set."""
    for record in np.unique(np.linspace(0, len(index) - 1, _LOOKED_AT).astype(int)).tolist():
        context = frame_reader.read_context(index, record)
        if context is not None:
            numbers = context.feature[records.LABEL].int64_list.value
            texts = context.feature[records.LABEL_TEXT].bytes_list.value
            if len(numbers) == len(texts):
                yield from ((record, n, t.decode(errors="replace")) for n, t in zip(numbers, texts, strict=True))


def _hint(data: ml_collections.ConfigDict) -> str:
    """What the training records say of their classes, for who has to write a file of them."""
    if data.label_key != "label":
        return ""
    try:
        found = next(_named_labels(record_index.load_index(data.train)), None)
    except UserError:  # no records either: said where they are opened
        return ""
    return "" if found is None else f"; these records say {records.LABEL_TEXT}, class {found[1]} being {found[2]!r}"


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())
