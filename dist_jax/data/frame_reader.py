"""Reads only the chosen frames of a record, for large records in local files.

A record of 300 frames has about 9 MB; a clip of 16 frames needs 0.5 MB of it. Copying, checking and parsing the rest
takes longer than decoding the clip. So a process reads each record completely only once, to verify its checksum and
structure. Later it reads the chosen frames from the memory-mapped shard, and skips the others by their lengths.
"""

import functools
import mmap
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from dist_jax.data import image_decoding, record_index, records
from dist_jax.data.encoded_clips import clip_id, clip_size, indexed_reader, parse_context
from dist_jax.data.sampling import Features
from dist_jax.data.source import Source
from dist_jax.errors import UserError

_CONTEXT_BYTES = 1 << 16  # the largest context that `read_context` reads
# Tags of field 1 and field 2. Every field of a SequenceExample is length-delimited and has one of these numbers.
_FIELD_1, _FIELD_2 = 0x0A, 0x12
_LENGTH_DELIMITED = 2  # wire type
_FRAMES_KEY = records.FRAMES.encode()


def open_source(
    index: record_index.ShardIndex, label_features: Mapping[str, str], num_classes: Mapping[str, int]
) -> Source:
    """A `Source` of the records in local shards. `label_features` maps a label name to its context feature."""
    read_record = indexed_reader(index)
    verified = np.zeros(len(index), bool)

    @functools.cache
    def map_shard(shard: int) -> memoryview:
        with open(index.paths[shard], "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def record_data(record: np.int64) -> memoryview:
        start = index.offset[record] + record_index.HEADER_BYTES
        return map_shard(int(index.shard[record]))[start : start + index.length[record]]

    def verify(record: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([read_record(record)]):
            return tf.numpy_function(verify_frames, [record], tf.bool)

    def verify_frames(record: np.int64) -> np.bool_:
        data = record_data(record)
        for start in _find_frames(data)[1]:
            _frame_bytes(data, start)  # raises for an empty frame, as encoded_clips.record_parser does
        verified[record] = True
        return np.True_

    def read_metadata(record: np.int64) -> tuple[bytes, np.ndarray, bytes]:
        data = record_data(record)
        context, starts = _find_frames(data)
        return context, np.array(starts, np.int64), _frame_bytes(data, starts[0]) if starts else b""

    def read(record: tf.Tensor) -> Features:
        is_verified = tf.ensure_shape(tf.numpy_function(lambda number: verified[number], [record], tf.bool), [])
        with tf.control_dependencies([tf.cond(is_verified, lambda: is_verified, lambda: verify(record))]):
            context, starts, first = tf.numpy_function(read_metadata, [record], [tf.string, tf.int64, tf.string])
        labels, name = parse_context(tf.ensure_shape(context, []), label_features)
        num_frames, height, width = clip_size(tf.ensure_shape(starts, [None]), tf.ensure_shape(first, []))
        features = {"num_frames": num_frames, "height": height, "width": width, "labels": labels}
        return features | {"id": clip_id(name, record), "starts": starts, "clip": record}

    def read_frames(record: np.int64, starts: np.ndarray) -> np.ndarray:
        data = record_data(record)
        return np.array([_frame_bytes(data, start) for start in starts.tolist()], object)

    def decode(features: Features) -> Features:
        starts = tf.gather(features["starts"], features["indices"])
        encoded = tf.ensure_shape(tf.numpy_function(read_frames, [features["clip"], starts], tf.string), [None])
        return features | image_decoding.decode_images(encoded, features["window"])

    return Source(len(index), num_classes, read, decode, index.location, index.identity)


def read_context(index: record_index.ShardIndex, record: int) -> tf.train.Features | None:
    """The context of a record, without its frames and without a checksum.

    None if it cannot be read or does not precede the frames. TensorFlow always writes it first.
    """
    try:
        with tf.io.gfile.GFile(index.paths[index.shard[record]], "rb") as file:
            file.seek(int(index.offset[record]) + record_index.HEADER_BYTES)
            data = memoryview(file.read(min(int(index.length[record]), _CONTEXT_BYTES)))
        size, start = _varint(data, 1)
        if data[0] != _FIELD_1 or start + size > len(data):
            return None
        return tf.train.Features.FromString(bytes(data[start : start + size]))
    except (UserError, IndexError, DecodeError, tf.errors.OpError):
        return None


def _find_frames(data: memoryview) -> tuple[bytes, list[int]]:
    """Context of a SequenceExample, serialized as a SequenceExample without frames; start of each frame's `Feature`."""
    context = b""
    frames: list[int] = []
    for tag, start, end in _fields(data, 0, len(data)):
        if tag == _FIELD_1:  # context
            context = bytes([_FIELD_1]) + _varint_bytes(end - start) + bytes(data[start:end])
        elif tag == _FIELD_2:  # feature_lists
            for entry_tag, entry_start, entry_end in _fields(data, start, end):
                if entry_tag == _FIELD_1:
                    frames = frames or _frame_starts(data, entry_start, entry_end)
    return context, frames


def _frame_starts(data: memoryview, start: int, end: int) -> list[int]:
    """Starts of the features in the map entry between two positions, if its key is that of the frames; else none."""
    key_and_value = {tag: (first, last) for tag, first, last in _fields(data, start, end)}
    key_start, key_end = key_and_value.get(_FIELD_1, (0, 0))
    if bytes(data[key_start:key_end]) != _FRAMES_KEY:
        return []
    features = [(first, last) for _, first, last in _fields(data, *key_and_value.get(_FIELD_2, (0, 0)))]
    for first, last in features:
        if first == last:
            raise UserError(f"the frame at byte {first} of the record is empty")
    return [first for first, _ in features]


def _frame_bytes(data: memoryview, start: int) -> bytes:
    """The value of the `Feature` {bytes_list {value}} at `start`. Raises UserError if there is none."""
    value_start, end = start, len(data)
    for _ in range(2):  # bytes_list, then its first value
        if value_start >= end or data[value_start] != _FIELD_1:
            raise UserError(f"the frame at byte {start} of the record is not a list of bytes, or it is empty")
        size, value_start = _varint(data, value_start + 1)
        if value_start + size > end:
            raise UserError(f"the frame at byte {start} of the record extends past the end of the record")
        end = value_start + size
    return bytes(data[value_start:end])


def _fields(data: memoryview, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Tag, start and end of each length-delimited field between two positions."""
    while position < end:
        tag = data[position]
        size, start = _varint(data, position + 1)
        position = start + size
        if tag & 7 != _LENGTH_DELIMITED or position > end:
            raise UserError(f"the record is not a SequenceExample (byte {start})")
        yield tag, start, position


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """The number at `position` and the position after it."""
    value = 0
    for shift, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, position + shift + 1
    raise UserError(f"the record is not a SequenceExample (byte {position})")


def _varint_bytes(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
