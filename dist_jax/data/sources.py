"""Where clips come from: records, TFDS data sets, video files or DMVR factories, all read through one `Source`."""

import dataclasses
import os
from collections.abc import Callable

import ml_collections
import tensorflow as tf

from dist_jax.data import augment, records
from dist_jax.data.sampling import Features
from dist_jax.errors import UserError

_LABEL_KEYS = {"label": records.LABEL, "verb": records.VERB, "noun": records.NOUN}


@dataclasses.dataclass(frozen=True)
class Source:
    """n clips, each addressed by its number.

    Attributes:
        size: n.
        classes: K, the number of class names.
        read: record number (int64 []) -> features `num_frames`, `height`, `width` (int32 []), `labels` (int64 [any]),
            `id` (bytes [], the clip's name) and whatever `decode` needs; frames stay encoded. Raises a TensorFlow error
            if the record cannot be read.
        decode: adds `video`, uint8 [m, h, w, 3]: the frames `indices` (int32 [m]), cut to `window` (int32 [4]).
        where: record number -> how a message names the record.
    """

    size: int
    classes: int
    read: Callable[[tf.Tensor], Features]
    decode: Callable[[Features], Features]
    where: Callable[[int], str]


def open_source(data: ml_collections.ConfigDict, split: str) -> Source:
    """The clips of `split` ("train" or "val") as `config.data` names them.

    Raises:
        UserError: missing, truncated or changed files, an empty set; one line that says what to do.
    """
    location = data[split]
    if not location:
        raise UserError(f"data.{split} is empty: say where the {split} clips are (data.source={data.source})")
    return _record_source(location, data.label, len(class_names(data)))


def class_names(data: ml_collections.ConfigDict) -> list[str]:
    """The K class names; a class's number is its line's place in the file of labels.

    Raises:
        UserError: no such file, an empty line, a name that stands twice.
    """
    path = data.labels or os.path.join(_folder(data.train), "labels.txt")
    if not tf.io.gfile.exists(path):
        raise UserError(f"{path}: no file of class names there; set data.labels to one (one name a line)")
    with tf.io.gfile.GFile(path) as file:
        names = [line.strip() for line in file.read().splitlines()]
    if not names:
        raise UserError(f"{path} holds no class names; wanted one a line")
    if "" in names:
        raise UserError(
            f"{path}: line {names.index('') + 1} is empty, but a class's number is its line; remove the line"
        )
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise UserError(f"{path}: the class {twice!r} stands twice; names must differ")
    return names


def _folder(location: str) -> str:
    return location if tf.io.gfile.isdir(location) else os.path.dirname(location)


def _record_source(pattern: str, label: str, classes: int) -> Source:
    index = records.load_index(pattern)
    read_bytes = indexed_reader(index)
    parse = record_parser(_LABEL_KEYS[label])
    return Source(
        size=len(index),
        classes=classes,
        read=lambda record: with_id(parse(read_bytes(record)), record),
        decode=decode_encoded,
        where=index.where,
    )


def indexed_reader(index: records.ShardIndex) -> Callable[[tf.Tensor], tf.Tensor]:
    """Record number (int64 []) -> the record's bytes, read and checked by TensorFlow's own reader; gs:// as well."""
    paths, shard = tf.constant(index.paths), tf.constant(index.shard)
    offset, length = tf.constant(index.offset), tf.constant(index.length)

    def read(record: tf.Tensor) -> tf.Tensor:
        dataset = tf.raw_ops.TFRecordDatasetV2(
            filenames=tf.gather(paths, tf.gather(shard, record))[None],
            compression_type="",
            buffer_size=_read_size(tf.gather(length, record)),
            byte_offsets=tf.gather(offset, record)[None],
        )
        first = tf.raw_ops.TakeDataset(
            input_dataset=dataset, count=tf.constant(1, tf.int64), output_types=[tf.string], output_shapes=[[]]
        )
        return tf.raw_ops.DatasetToSingleElement(dataset=first, output_types=[tf.string], output_shapes=[[]])[0]

    return read


def _read_size(length: tf.Tensor) -> tf.Tensor:
    # One request serves a small record; a large one is read past the buffer, which would only be copied.
    return tf.where(length < 1 << 18, length + 16, tf.zeros_like(length))


def record_parser(label_key: str) -> Callable[[tf.Tensor], Features]:
    """A serialized SequenceExample -> the features that `Source.read` gives, with `encoded` (bytes [num_frames])."""

    def parse(serialized: tf.Tensor) -> Features:
        # The parser of batches is the faster one: it does not build the message first.
        context, lists, _ = tf.io.parse_sequence_example(
            serialized[None],
            context_features={
                label_key: tf.io.RaggedFeature(tf.int64),
                records.FILENAME: tf.io.RaggedFeature(tf.string),
            },
            sequence_features={records.FRAMES: tf.io.RaggedFeature(tf.string)},
        )
        name = context[records.FILENAME].flat_values
        return encoded_clip(lists[records.FRAMES].flat_values, context[label_key].flat_values, name)

    return parse


def encoded_clip(encoded: tf.Tensor, labels: tf.Tensor, name: tf.Tensor) -> Features:
    """The features of a clip: encoded images (bytes [num_frames]), labels (int64 [any]), name (bytes [0 or more])."""
    num_frames = tf.size(encoded)
    with tf.control_dependencies([tf.debugging.assert_positive(num_frames, "the record holds no frames")]):
        height, width = augment.image_size(encoded[0])
    features = {"num_frames": num_frames, "height": height, "width": width, "labels": labels}
    return features | {"encoded": encoded, "id": tf.strings.reduce_join(name, separator=" ")}


def with_id(features: Features, record: tf.Tensor) -> Features:
    """A clip without a name is named by its number."""
    name = tf.where(features["id"] == "", tf.strings.as_string(record), features["id"])
    return features | {"id": name}


def decode_encoded(features: Features) -> Features:
    """Decodes the chosen frames' window of a clip of encoded images; drops `encoded`."""
    encoded = tf.gather(features["encoded"], features["indices"])
    video = augment.decode_images(encoded, features["window"])
    return {key: value for key, value in features.items() if key != "encoded"} | {"video": video}
