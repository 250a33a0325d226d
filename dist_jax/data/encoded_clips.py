"""Clips of encoded images in TFRecords: reading a record by number, parsing it, decoding the chosen frames."""

from collections.abc import Callable

import tensorflow as tf

from dist_jax.data import record_index, records, transforms
from dist_jax.data.sampling import Features
from dist_jax.data.source import Source


def encoded_source(index: record_index.ShardIndex, parse: Callable[[tf.Tensor], Features], classes: int) -> Source:
    """Clips of encoded images in TFRecords, taken out of a record's bytes by `parse` as `encoded_clip` gives them."""
    read_bytes = indexed_reader(index)

    def read(record: tf.Tensor) -> Features:
        features = parse(read_bytes(record))
        return features | {"id": clip_id(features["id"], record)}

    return Source(len(index), classes, read, decode_encoded, index.where, index.identity)


def clip_id(name: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
    """The name of a clip (bytes [0 or more] -> bytes []); one that has none is named by its number."""
    joined = tf.strings.reduce_join(name, separator=" ")
    return tf.where(joined == "", tf.strings.as_string(record), joined)


def indexed_reader(index: record_index.ShardIndex) -> Callable[[tf.Tensor], tf.Tensor]:
    """Record number (int64 []) -> the record's bytes, read and checked by TensorFlow's own reader; gs:// as well."""
    paths, shard = tf.constant(index.paths), tf.constant(index.shard)
    offset, length = tf.constant(index.offset), tf.constant(index.length)

    def read(record: tf.Tensor) -> tf.Tensor:
        dataset = tf.raw_ops.TFRecordDatasetV2(
            filenames=tf.gather(paths, tf.gather(shard, record))[None],
            compression_type="",
            buffer_size=tf.gather(length, record) + 16,  # the record and its framing in one request
            byte_offsets=tf.gather(offset, record)[None],
        )
        first = tf.raw_ops.TakeDataset(
            input_dataset=dataset, count=tf.constant(1, tf.int64), output_types=[tf.string], output_shapes=[[]]
        )
        return tf.raw_ops.DatasetToSingleElement(dataset=first, output_types=[tf.string], output_shapes=[[]])[0]

    return read


def record_parser(label_key: str) -> Callable[[tf.Tensor], Features]:
    """A serialized SequenceExample -> the features that `Source.read` gives, with `encoded` (bytes [num_frames])."""

    def parse(serialized: tf.Tensor) -> Features:
        labels, name, lists = _parsed(serialized, label_key, {records.FRAMES: tf.io.RaggedFeature(tf.string)})
        frames = lists[records.FRAMES].values  # [num_frames, 1 each]
        one_each = tf.debugging.assert_equal(
            tf.cast(frames.row_lengths(), tf.int32), 1, "a frame of the record is empty"
        )
        with tf.control_dependencies([one_each]):
            return encoded_clip(tf.identity(frames.flat_values), labels, name)

    return parse


def parse_context(serialized: tf.Tensor, label_key: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels (int64 [any]) and name (bytes [0 or more]) of a serialized SequenceExample."""
    return _parsed(serialized, label_key, {})[:2]


def _parsed(serialized: tf.Tensor, label_key: str, lists: dict) -> tuple[tf.Tensor, tf.Tensor, Features]:
    wanted = {label_key: tf.io.RaggedFeature(tf.int64), records.FILENAME: tf.io.RaggedFeature(tf.string)}
    # The parser of batches is the faster one: it does not build the message first.
    context, lists, _ = tf.io.parse_sequence_example(serialized[None], wanted, lists)
    return context[label_key].flat_values, context[records.FILENAME].flat_values, lists


def encoded_clip(encoded: tf.Tensor, labels: tf.Tensor, name: tf.Tensor) -> Features:
    """The features of a clip: encoded images (bytes [num_frames]), labels (int64 [any]), name (bytes [0 or more])."""
    num_frames, height, width = clip_size(encoded, encoded[:1])
    features = {"num_frames": num_frames, "height": height, "width": width, "labels": labels}
    return features | {"encoded": encoded, "id": name}


def clip_size(frames: tf.Tensor, first: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Number of frames (anything [num_frames]), and their height and width by the first's header (bytes, one)."""
    num_frames = tf.size(frames)
    with tf.control_dependencies([tf.debugging.assert_positive(num_frames, "the record holds no frames")]):
        height, width = transforms.image_size(tf.reshape(first, []))
    return num_frames, height, width


def decode_encoded(features: Features) -> Features:
    """Decodes the chosen frames' window of a clip of encoded images; drops `encoded`."""
    encoded = tf.gather(features["encoded"], features["indices"])
    video = transforms.decode_images(encoded, features["window"])
    return {key: value for key, value in features.items() if key != "encoded"} | {"video": video}
