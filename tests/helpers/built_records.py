"""What build_records left in a folder."""

import hashlib
import io
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from dist_jax.data import records


def examples(output, name="train"):
    """The records, by the name of their video."""
    found = {}
    for path in records.find_shards(str(output / name)):
        for record in tf.data.TFRecordDataset(path):
            example = tf.train.SequenceExample.FromString(record.numpy())
            found[example.context.feature[records.FILENAME].bytes_list.value[0].decode()] = example
    return found


def images(example):
    steps = example.feature_lists.feature_list[records.FRAMES].feature
    return [np.asarray(Image.open(io.BytesIO(step.bytes_list.value[0]))) for step in steps]


def integer(example, key):
    return list(example.context.feature[key].int64_list.value)


def hashes(output, name="train"):
    paths = records.find_shards(str(output / name))
    return {path.rpartition("/")[2]: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}
