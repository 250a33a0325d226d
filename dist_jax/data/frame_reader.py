"""Chosen frames of a record without reading the rest of it, for large records in local files.

A record of 300 frames has some 9 MB, of which a clip of 16 needs half a megabyte; copying, checking and parsing the
rest takes longer than decoding the clip. Here a record is read whole once, when a process comes to it first, to verify
its checksum and its form. Afterwards its shard, mapped into memory, gives the chosen frames; only lengths are read on
the way there.
"""

import functools
import mmap
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from dist_jax.data import record_index, records, transforms
from dist_jax.data.encoded_clips import clip_id, clip_size, indexed_reader, parse_context
from dist_jax.data.sampling import Features
from dist_jax.data.source import Source
from dist_jax.errors import UserError

_CONTEXT = 1 << 16  # bytes within which a record's context ends
# Field tags of the messages involved; all are length-delimited fields number 1 or 2.
_FIRST, _SECOND = 0x0A, 0x12
_FRAMES = records.FRAMES.encode()


def open_source(index: record_index.ShardIndex, label_key: str, classes: int) -> Source:
    """The clips of an index of local shards; see `Source`. `label_key` is the record's key of the labels."""
    read_whole = indexed_reader(index)
    verified = np.zeros(len(index), bool)

    @functools.cache
    def mapped(shard: int) -> memoryview:
        with open(index.paths[shard], "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def data_of(record: np.int64) -> memoryview:
        begin = index.offset[record] + record_index.HEADER_BYTES
        return mapped(int(index.shard[record]))[begin : begin + index.length[record]]

    def verify(record: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([read_whole(record)]):
            return tf.numpy_function(mark, [record], tf.bool)

    def mark(record: np.int64) -> np.bool_:
        data = data_of(record)
        for start in _layout(data)[1]:
            _value(data, start)  # every frame has bytes, as the parser of whole records wants it
        verified[record] = True
        return np.True_

    def describe(record: np.int64) -> tuple[bytes, np.ndarray, bytes]:
        data = data_of(record)
        context, starts = _layout(data)
        return context, np.array(starts, np.int64), _value(data, starts[0]) if starts else b""

    def read(record: tf.Tensor) -> Features:
        known = tf.ensure_shape(tf.numpy_function(lambda number: verified[number], [record], tf.bool), [])
        with tf.control_dependencies([tf.cond(known, lambda: known, lambda: verify(record))]):
            context, starts, first = tf.numpy_function(describe, [record], [tf.string, tf.int64, tf.string])
        labels, name = parse_context(tf.ensure_shape(context, []), label_key)
        num_frames, height, width = clip_size(tf.ensure_shape(starts, [None]), tf.ensure_shape(first, []))
        features = {"num_frames": num_frames, "height": height, "width": width, "labels": labels}
        return features | {"id": clip_id(name, record), "starts": starts, "clip": record}

    def fetch(record: np.int64, starts: np.ndarray) -> np.ndarray:
        data = data_of(record)
        return np.array([_value(data, start) for start in starts.tolist()], object)

    def decode(features: Features) -> Features:
        chosen = tf.gather(features["starts"], features["indices"])
        encoded = tf.ensure_shape(tf.numpy_function(fetch, [features["clip"], chosen], tf.string), [None])
        return features | {"video": transforms.decode_images(encoded, features["window"])}

    return Source(len(index), classes, read, decode, index.where, index.identity)


def read_context(index: record_index.ShardIndex, record: int) -> tf.train.Features | None:
    """The context of a record, of which only the beginning is read, unchecked.

    None if it cannot be read or does not come before the frames, as it does in all records that TensorFlow writes.
    """
    try:
        with tf.io.gfile.GFile(index.paths[index.shard[record]], "rb") as file:
            file.seek(int(index.offset[record]) + record_index.HEADER_BYTES)
            data = memoryview(file.read(min(int(index.length[record]), _CONTEXT)))
        size, begin = _varint(data, 1)
        if data[0] != _FIRST or begin + size > len(data):
            return None
        return tf.train.Features.FromString(bytes(data[begin : begin + size]))
    except (UserError, IndexError, DecodeError, tf.errors.OpError):
        return None


def _layout(data: memoryview) -> tuple[bytes, list[int]]:
    """Of a SequenceExample: its context alone, as a SequenceExample, and where the frames' `Feature`s begin."""
    context, frames = b"", []
    for tag, begin, end in _fields(data, 0, len(data)):
        if tag == _FIRST:
            context = bytes([_FIRST]) + _varint_bytes(end - begin) + bytes(data[begin:end])
        elif tag == _SECOND:
            for entry, entry_begin, entry_end in _fields(data, begin, end):
                if entry == _FIRST:
                    frames = frames or _frames_of(data, entry_begin, entry_end)
    return context, frames


def _frames_of(data: memoryview, begin: int, end: int) -> list[int]:
    """Beginnings of the list's features if the map entry is that of the frames, else nothing."""
    parts = {tag: (first, last) for tag, first, last in _fields(data, begin, end)}
    name_begin, name_end = parts.get(_FIRST, (0, 0))
    if bytes(data[name_begin:name_end]) != _FRAMES:
        return []
    first, last = parts.get(_SECOND, (0, 0))
    features = [(start, stop) for _, start, stop in _fields(data, first, last)]
    for start, stop in features:
        if start == stop:
            raise UserError(f"the frame at byte {start} of the record is empty")
    return [start for start, _ in features]


def _value(data: memoryview, start: int) -> bytes:
    """The bytes of the `Feature` {bytes_list {value}} whose fields begin at `start`; UserError if there are none."""
    begin, end = start, len(data)
    for _ in range(2):  # into bytes_list, then into its first value
        if begin >= end or data[begin] != _FIRST:
            raise UserError(f"the frame at byte {start} of the record is no list of bytes, or an empty one")
        size, begin = _varint(data, begin + 1)
        if begin + size > end:
            raise UserError(f"the frame at byte {start} of the record goes beyond its end")
        end = begin + size
    return bytes(data[begin:end])


def _fields(data: memoryview, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Tag, begin and end of the length-delimited fields between two positions."""
    while position < end:
        tag = data[position]
        size, begin = _varint(data, position + 1)
        position = begin + size
        if tag & 7 != 2 or position > end:
            raise UserError(f"byte {begin} of the record does not belong to a SequenceExample")
        yield tag, begin, position


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """The number at `position` and the position behind it."""
    value = 0
    for shift, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, position + shift + 1
    raise UserError(f"byte {position} of the record does not belong to a SequenceExample")


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
