"""Clips of a TensorFlow Datasets video data set that lies prepared on disk; frames stay encoded until chosen."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence

import ml_collections
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from dist_jax.data import record_index
from dist_jax.data.encoded_clips import encoded_clip, encoded_source
from dist_jax.data.sampling import Features
from dist_jax.data.source import Source
from dist_jax.errors import UserError


def open_source(data: ml_collections.ConfigDict, split: str, class_names: Sequence[str]) -> Source:
    """The clips of a data set with a video and a label.

    Args:
        data: config.data. data.SPLIT is name/config:split, e.g. ucf101/ucf101_1:train. The name may also be the folder
          of a prepared version, and the split a slice, train[:80%]. data.label_key names the class-label feature;
          "label": the only one of the data set.
        split: "train" or "val".
        class_names: K names.

    Raises:
        UserError: no such data set or split, not prepared, not kept as TFRecords, no video or no such label.
    """
    location = data[split]
    builder, tfds_split = _builder(location)
    video_key = _only_feature(builder, tfds.features.Video, None)
    label_key = _only_feature(builder, tfds.features.ClassLabel, data.label_key)
    if builder.info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise UserError(f"{location} is kept as {builder.info.file_format.value}; build it as TFRecords (tfds build)")
    try:
        instructions = builder.info.splits[tfds_split].file_instructions
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits)
        raise UserError(f"{location}: no split {tfds_split!r}; there are {known}") from error
    index = _selected(record_index.load_index_of([part.filename for part in instructions]), instructions)

    def parse(serialized: tf.Tensor) -> Features:
        skip = {video_key: tfds.decode.SkipDecoding()}
        example = builder.info.features.deserialize_example(serialized, decoders=skip)
        return encoded_clip(example[video_key], example[label_key][None], tf.constant([], tf.string))

    return encoded_source(index, parse, len(class_names))


def class_names(data: ml_collections.ConfigDict) -> list[str]:
    """The names that the data set gives to its classes."""
    builder, _ = _builder(data.train)
    return builder.info.features[_only_feature(builder, tfds.features.ClassLabel, data.label_key)].names


@functools.lru_cache
def _builder(location: str) -> tuple[tfds.core.DatasetBuilder, str]:
    named = re.fullmatch(r"(.+):([^:\[\]/]+(?:\[[^\]]*\])?)", location)
    if not named:
        raise UserError(f"{location!r} names no split; write name/config:split, e.g. ucf101/ucf101_1:train")
    name, split = named.groups()
    try:
        builder = tfds.builder_from_directory(name) if tf.io.gfile.isdir(name) else tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, ValueError, OSError) as error:
        raise UserError(f"{name}: TFDS has no such data set ({str(error).strip().splitlines()[0]})") from error
    if not builder.info.splits:
        raise UserError(
            f"{name} is not prepared in {builder.data_dir}: run `tfds build {name}` first (it may download)"
        )
    return builder, split


def _only_feature(builder: tfds.core.DatasetBuilder, kind: type, name: str | None) -> str:
    found = [key for key, feature in builder.info.features.items() if isinstance(feature, kind)]
    if name in found:
        return name
    if len(found) != 1 or name not in (None, "label"):
        raise UserError(f"{builder.name} has the {kind.__name__} features {found}; wanted {name or 'exactly one'}")
    return found[0]


def _selected(index: record_index.ShardIndex, instructions: list) -> record_index.ShardIndex:
    """The records that the slice of a split takes of each shard; damage may have left a shard fewer of them."""
    firsts = np.searchsorted(index.shard, np.arange(len(instructions) + 1))
    chosen = list(
        itertools.chain.from_iterable(
            range(first + part.skip, min(first + part.skip + part.take, end))
            for first, end, part in zip(firsts[:-1], firsts[1:], instructions, strict=True)
        )
    )
    return dataclasses.replace(
        index, shard=index.shard[chosen], offset=index.offset[chosen], length=index.length[chosen]
    )
