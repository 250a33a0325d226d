"""DMVR-format TFRecords: feature names, serialized records, shard names.

A record is a `tf.train.SequenceExample`. The context has the labels and the origin of the clip; the feature list
`image/encoded` has one JPEG per frame. `record_index.py` finds the start of each record in a shard.
"""

import os
import re
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from dist_jax import files
from dist_jax.errors import UserError

LABEL = "clip/label/index"  # int64, one or more
LABEL_TEXT = "clip/label/text"  # bytes, one per label
VERB = "clip/verb/index"  # int64, EPIC-KITCHENS
NOUN = "clip/noun/index"  # int64, EPIC-KITCHENS
NARRATION_ID = "clip/narration_id"  # bytes, EPIC-KITCHENS: the segment's name in the published files
FILENAME = "video/filename"  # bytes
START = "clip/start/timestamp"  # int64, microseconds
END = "clip/end/timestamp"  # int64, microseconds
CAPTION = "caption/string"  # bytes, optional
FRAMES = "image/encoded"  # feature list of bytes, one JPEG per frame

INDEX_SUFFIX = ".index.npz"
SHARD_NAME = re.compile(r"(?P<prefix>.*)-(?P<number>\d{5,})-of-(?P<count>\d{5,})(?P<suffix>\.\w+)?")


def make_example(
    frames: Sequence[bytes],
    label: int | Sequence[int] | None,
    label_text: str | Sequence[str] | None,
    filename: str,
    start_us: int,
    end_us: int,
    caption: str | None = None,
    verb: int | None = None,
    noun: int | None = None,
    narration_id: str | None = None,
) -> bytes:
    """The serialized record of one clip. The same arguments always give the same bytes.

    Args:
        frames: encoded images in temporal order, at least one. DMVR's readers expect JPEG.
        label: class number, or several; None for a clip that has only a verb and a noun, or no labels.
        label_text: class names, one per label.
        filename: the clip's video, relative to the data set's folder.
        start_us: start of the clip in its video, microseconds.
        end_us: end of the clip, microseconds.
        caption: a sentence that describes the clip.
        verb: verb class (EPIC-KITCHENS).
        noun: noun class (EPIC-KITCHENS).
        narration_id: name of the segment (EPIC-KITCHENS).

    Raises:
        ValueError: no frames, or different numbers of labels and texts.
    """
    labels = [] if label is None else [label] if isinstance(label, int | np.integer) else list(label)
    texts = [] if label_text is None else [label_text] if isinstance(label_text, str) else list(label_text)
    if not frames:
        raise ValueError(f"{filename}: a record needs at least one frame")
    if texts and len(texts) != len(labels):
        raise ValueError(f"{filename}: {len(labels)} labels but {len(texts)} label texts")
    context = {
        LABEL: _integers(*labels) if labels else None,
        LABEL_TEXT: _strings(*texts) if texts else None,
        VERB: None if verb is None else _integers(verb),
        NOUN: None if noun is None else _integers(noun),
        NARRATION_ID: None if narration_id is None else _strings(narration_id),
        FILENAME: _strings(filename),
        START: _integers(start_us),
        END: _integers(end_us),
        CAPTION: None if caption is None else _strings(caption),
    }
    images = [tf.train.Feature(bytes_list=tf.train.BytesList(value=[frame])) for frame in frames]
    example = tf.train.SequenceExample(
        context=tf.train.Features(feature={key: value for key, value in context.items() if value is not None}),
        feature_lists=tf.train.FeatureLists(feature_list={FRAMES: tf.train.FeatureList(feature=images)}),
    )
    return example.SerializeToString(deterministic=True)


def _integers(*values: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value) for value in values]))


def _strings(*values: str) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode() for value in values]))


def shard_path(prefix: str, number: int, num_shards: int) -> str:
    """PREFIX-00003-of-00016 for shard 3 (counted from 0) of 16."""
    return f"{prefix}-{number:05d}-of-{num_shards:05d}"


def find_shards(pattern: str) -> list[str]:
    """The sorted shards of a pattern, local or remote (gs://...).

    Args:
        pattern: NAME@N or NAME@N.EXT (shards NAME-00000-of-0000N.EXT), NAME alone, one file, a folder that contains one
            set of shards, or a glob.

    Raises:
        UserError: no shards, a missing shard, several sets of shards, or a folder that cannot be read.
    """
    if not pattern:
        raise UserError("no records are given: set data.train and data.val to NAME@N, a glob or a folder")
    numbered = re.fullmatch(r"(.+)@(\d+)(\.\w+)?", pattern)
    if numbered:
        prefix, num_shards, suffix = numbered[1], int(numbered[2]), numbered[3] or ""
        paths = [shard_path(prefix, number, num_shards) + suffix for number in range(num_shards)]
        missing = [path for path in paths if not files.exists(path)]
        if not paths:
            raise UserError(f"{pattern} has 0 shards; use NAME@N with the number of shards N")
        if missing:
            raise UserError(f"{pattern}: {len(missing)} of {num_shards} shards are missing, first {missing[0]}")
        return paths
    if files.is_folder(pattern):
        paths = [os.path.join(pattern, name) for name in files.list_names(pattern)]
        paths = [path for path in paths if _has_shard_name(path)]
    elif files.exists(pattern):
        return [pattern]
    else:
        paths = shards_of(pattern) or [path for path in files.list_matches(pattern) if _may_be_shard(path)]
    if not paths:
        raise UserError(f"{pattern}: no records found; use NAME@N, NAME-?????-of-?????, a glob or a folder")
    _check_complete(pattern, paths)
    return sorted(paths)


def shards_of(prefix: str) -> list[str]:
    """The sorted existing shards with the name `prefix`, any number of shards and any suffix; [] if there are none.

    `prefix` is not a glob; it may contain any characters. Raises UserError if the folder cannot be read.
    """
    folder = os.path.dirname(prefix)
    names = files.list_names(folder or ".") if files.is_folder(folder or ".") else []
    matches = [SHARD_NAME.fullmatch(os.path.join(folder, name)) for name in names]
    return sorted(match[0] for match in matches if match and match["prefix"] == prefix)


def _has_shard_name(path: str) -> bool:
    return bool(SHARD_NAME.fullmatch(path)) or path.endswith(".tfrecord")


def _may_be_shard(path: str) -> bool:
    """False for hidden files, index files, temporary files and folders that a glob can match."""
    if os.path.basename(path).startswith(".") or path.endswith((INDEX_SUFFIX, ".partial", ".tmp")):
        return False
    return _has_shard_name(path) or not files.is_folder(path)


def _check_complete(pattern: str, paths: list[str]) -> None:
    sets: dict[tuple, set[int]] = {}
    for path in paths:
        name = SHARD_NAME.fullmatch(path)
        if name:
            sets.setdefault((name["prefix"], int(name["count"]), name["suffix"] or ""), set()).add(int(name["number"]))
    if len(sets) > 1:
        names = ", ".join(f"{prefix}@{num_shards}" for prefix, num_shards, _ in sorted(sets))
        raise UserError(f"{pattern} matches several sets of records: {names}; use one of them")
    for (prefix, num_shards, suffix), numbers in sets.items():
        missing = sorted(set(range(num_shards)) - numbers)
        if missing:
            first = shard_path(prefix, missing[0], num_shards) + suffix
            raise UserError(f"{pattern}: {len(missing)} of {num_shards} shards are missing, first {first}")
