"""Reads the output folder of build_records."""

import hashlib
import io
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from dist_jax.data import records


def examples(output, name="train"):
    """SequenceExamples by video filename."""
    by_filename = {}
    for path in records.find_shards(str(output / name)):
        for record in tf.data.TFRecordDataset(path):
            example = tf.train.SequenceExample.FromString(record.numpy())
            by_filename[example.context.feature[records.FILENAME].bytes_list.value[0].decode()] = example
    return by_filename


def images(example):
    """Decoded frames, a list of uint8 [H, W, 3]."""
    steps = example.feature_lists.feature_list[records.FRAMES].feature
    return [np.asarray(Image.open(io.BytesIO(step.bytes_list.value[0]))) for step in steps]


def integers(example, key):
    """Values of an int64 context feature."""
    return list(example.context.feature[key].int64_list.value)


def hashes(output, name="train"):
    """SHA-256 of each shard by file name."""
    paths = records.find_shards(str(output / name))
    return {path.rpartition("/")[2]: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}
