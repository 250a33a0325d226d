"""Clips of encoded images in TFRecords: reading a record by number, parsing it, decoding the chosen frames."""

from collections.abc import Callable, Mapping

import tensorflow as tf

from dist_jax.data import image_decoding, record_index, records
from dist_jax.data.sampling import Features
from dist_jax.data.source import Source

Labels = dict[str, tf.Tensor]  # label name -> class numbers


def encoded_source(
    index: record_index.ShardIndex, parse: Callable[[tf.Tensor], Features], num_classes: Mapping[str, int]
) -> Source:
    """A source of encoded images in TFRecords. `parse` maps a record's bytes to the features of `encoded_clip`."""
    read_bytes = indexed_reader(index)

    def read(record: tf.Tensor) -> Features:
        features = parse(read_bytes(record))
        return features | {"id": clip_id(features["id"], record)}

    return Source(len(index), num_classes, read, decode_encoded, index.location, index.identity)


def clip_id(name: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
    """A clip's name (bytes, 0 or more -> bytes []). A clip without a name gets its record number."""
    joined = tf.strings.reduce_join(name, separator=" ")
    return tf.where(joined == "", tf.strings.as_string(record), joined)


def indexed_reader(index: record_index.ShardIndex) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function: record number (int64 []) -> the record's bytes.

    TensorFlow's TFRecord reader reads the record and verifies its checksum, also from gs:// and other file systems.
    """
    paths, shard = tf.constant(index.paths), tf.constant(index.shard)
    offset, length = tf.constant(index.offset), tf.constant(index.length)

    def read(record: tf.Tensor) -> tf.Tensor:
        dataset = tf.raw_ops.TFRecordDatasetV2(
            filenames=tf.gather(paths, tf.gather(shard, record))[None],
            compression_type="",
            buffer_size=tf.gather(length, record) + record_index.FRAMING_BYTES,  # the whole record in one request
            byte_offsets=tf.gather(offset, record)[None],
        )
        first = tf.raw_ops.TakeDataset(
            input_dataset=dataset, count=tf.constant(1, tf.int64), output_types=[tf.string], output_shapes=[[]]
        )
        return tf.raw_ops.DatasetToSingleElement(dataset=first, output_types=[tf.string], output_shapes=[[]])[0]

    return read


def record_parser(label_features: Mapping[str, str]) -> Callable[[tf.Tensor], Features]:
    """Returns a function: serialized SequenceExample -> the features of `encoded_clip`.

    `label_features` maps a label name to its context feature, e.g. {"label": "clip/label/index"}.
    """

    def parse(serialized: tf.Tensor) -> Features:
        frames_spec = {records.FRAMES: tf.io.RaggedFeature(tf.string)}
        labels, name, lists = _parse_sequence_example(serialized, label_features, frames_spec)
        frames = lists[records.FRAMES].values  # [num_frames, 1 each]
        one_each = tf.debugging.assert_equal(
            tf.cast(frames.row_lengths(), tf.int32), 1, "the record contains an empty frame"
        )
        with tf.control_dependencies([one_each]):
            return encoded_clip(tf.identity(frames.flat_values), labels, name)

    return parse


def parse_context(serialized: tf.Tensor, label_features: Mapping[str, str]) -> tuple[Labels, tf.Tensor]:
    """Labels by name (int64, any number) and name (bytes, 0 or more) of a serialized SequenceExample.

    The name is the narration id (EPIC-KITCHENS) if the record has one, or else the video's name.
    """
    return _parse_sequence_example(serialized, label_features, {})[:2]


def _parse_sequence_example(
    serialized: tf.Tensor, label_features: Mapping[str, str], list_specs: dict
) -> tuple[Labels, tf.Tensor, Features]:
    context_specs = {feature: tf.io.RaggedFeature(tf.int64) for feature in label_features.values()}
    context_specs |= {feature: tf.io.RaggedFeature(tf.string) for feature in (records.NARRATION_ID, records.FILENAME)}
    # The batch parser is faster than the single-example parser, which first builds the message.
    context, lists, _ = tf.io.parse_sequence_example(serialized[None], context_specs, list_specs)
    labels = {name: context[feature].flat_values for name, feature in label_features.items()}
    narration_id, filename = context[records.NARRATION_ID].flat_values, context[records.FILENAME].flat_values
    return labels, tf.cond(tf.size(narration_id) > 0, lambda: narration_id, lambda: filename), lists


def encoded_clip(encoded: tf.Tensor, labels: Labels, name: tf.Tensor) -> Features:
    """Features of a clip, for `Source.read`.

    Args:
        encoded: the frames, bytes [num_frames].
        labels: by label name, int64, any number.
        name: bytes, 0 or more.
    """
    num_frames, height, width = clip_size(encoded, encoded[:1])
    features = {"num_frames": num_frames, "height": height, "width": width, "labels": labels}
    return features | {"encoded": encoded, "id": name}


def clip_size(frames: tf.Tensor, first: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Number of frames (any tensor [num_frames]), and height and width from the header of the first (bytes, one)."""
    num_frames = tf.size(frames)
    with tf.control_dependencies([tf.debugging.assert_positive(num_frames, "the record contains no frames")]):
        height, width = image_decoding.image_size(tf.reshape(first, []))
    return num_frames, height, width


def decode_encoded(features: Features) -> Features:
    """Replaces `encoded` by `video` and `left`: the frames `indices`, cropped to `window`. See `Source.decode`."""
    encoded = tf.gather(features["encoded"], features["indices"])
    others = {key: value for key, value in features.items() if key != "encoded"}
    return others | image_decoding.decode_images(encoded, features["window"])
