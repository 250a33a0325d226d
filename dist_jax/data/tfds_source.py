"""Clips of a prepared TensorFlow Datasets video data set (data.source=tfds). Only the chosen frames are decoded."""

import functools
import itertools
import re
from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from dist_jax.data import record_index
from dist_jax.data.encoded_clips import parsed_source
from dist_jax.data.source import Source, single_label
from dist_jax.errors import UserError

_SETTING = "data.source=tfds"


def open_source(data: ml_collections.ConfigDict, split: str, class_names: Mapping[str, Sequence[str]]) -> Source:
    """Opens a data set with one video feature and a class label.

    Args:
        data: config.data. data.train or data.val is name/config:split, e.g. ucf101/ucf101_1:train. The name may be the
          folder of a prepared version, and the split may be a slice, e.g. train[:80%]. data.label_key is the name of
          the class-label feature; "label" also means the only one of the data set.
        split: "train" or "val".
        class_names: K names, by label name.

    Raises:
        UserError: two labels, unknown data set or split, not prepared, not stored as TFRecords, no video or label.
    """
    spec, label = data[split], single_label(data, _SETTING)
    builder, tfds_split = _builder(spec)
    video_key = _only_feature(builder, tfds.features.Video, None)
    label_key = _only_feature(builder, tfds.features.ClassLabel, label)
    if builder.info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise UserError(f"{spec} is stored as {builder.info.file_format.value}; build it as TFRecords (`tfds build`)")
    try:
        instructions = builder.info.splits[tfds_split].file_instructions
    except (KeyError, ValueError) as error:
        splits = ", ".join(builder.info.splits)
        raise UserError(f"{spec}: no split {tfds_split!r}; use one of {splits}") from error
    index = record_index.load_index_of([instruction.filename for instruction in instructions])
    index = _select_records(index, instructions)

    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        keep_encoded = {video_key: tfds.decode.SkipDecoding()}
        example = builder.info.features.deserialize_example(serialized, decoders=keep_encoded)
        return example[video_key], {label: example[label_key][None]}

    return parsed_source(index, parse, {label: len(class_names[label])})


def class_names(data: ml_collections.ConfigDict) -> dict[str, list[str]]:
    """Returns the class names of the training data set."""
    label = single_label(data, _SETTING)
    builder, _ = _builder(data.train)
    return {label: builder.info.features[_only_feature(builder, tfds.features.ClassLabel, label)].names}


@functools.lru_cache
def _builder(spec: str) -> tuple[tfds.core.DatasetBuilder, str]:
    match = re.fullmatch(r"(.+):([^:\[\]/]+(?:\[[^\]]*\])?)", spec)
    if not match:
        raise UserError(f"{spec!r} has no split; use name/config:split, e.g. ucf101/ucf101_1:train")
    name, split = match.groups()
    try:
        builder = tfds.builder_from_directory(name) if tf.io.gfile.isdir(name) else tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, ValueError, OSError) as error:
        raise UserError(f"{name} is not a TFDS data set ({str(error).strip().splitlines()[0]})") from error
    if not builder.info.splits:
        raise UserError(
            f"{name} is not prepared in {builder.data_dir}; run `tfds build {name}` first (this may download data)"
        )
    return builder, split


def _only_feature(builder: tfds.core.DatasetBuilder, feature_type: type, name: str | None) -> str:
    """The key of the feature `name`, or of the only feature of this type if `name` is None or "label"."""
    keys = [key for key, feature in builder.info.features.items() if isinstance(feature, feature_type)]
    if name in keys:
        return name
    if len(keys) != 1 or name not in (None, "label"):
        expected = f"a feature {name!r} (data.label_key)" if name else "exactly one"
        raise UserError(f"{builder.name} has the {feature_type.__name__} features {keys}; expected {expected}")
    return keys[0]


def _select_records(index: record_index.ShardIndex, instructions: list) -> record_index.ShardIndex:
    """The records of a split's slice. A damaged shard may contain fewer records than TFDS expects."""
    bounds = np.searchsorted(index.shard, np.arange(len(instructions) + 1))
    selected = list(
        itertools.chain.from_iterable(
            range(first + instruction.skip, min(first + instruction.skip + instruction.take, end))
            for first, end, instruction in zip(bounds[:-1], bounds[1:], instructions, strict=True)
        )
    )
    return index.select(selected)
