"""Parses a serialized `tf.train.SequenceExample` without copying its frames.

A record of 300 frames has about 9 MB; a clip of 16 frames uses 0.5 MB of it. Each frame starts with its length, so the
functions skip frames without reading them. A frame is named by its start: the position of its `Feature` in the record.
"""

import struct
from collections.abc import Iterator, Sequence

import tensorflow as tf
from google.protobuf.message import DecodeError

from dist_jax.data import records
from dist_jax.errors import UserError

# Tags of field 1 and field 2. Every field of a SequenceExample is length-delimited and has one of these numbers.
_FIELD_1, _FIELD_2 = 0x0A, 0x12
_LENGTH_DELIMITED = 2  # wire type
_FRAMES_KEY = records.FRAMES.encode()
# The head of a field 1 of 16 KiB to 2 MiB, as of most frames: the tag, then a size of three bytes with 7 bits each.
_read_head, _HEAD_BYTES = struct.Struct("<I").unpack_from, 4
_HEAD_MASK, _LARGE_FIELD_1 = 0x808080FF, 0x0080800A

MAX_CONTEXT_BYTES = 1 << 16  # a context is found without its frames in this many bytes of a record


def parse(data: memoryview) -> tuple[tf.train.Features, list[int]]:
    """The context, and the start of each frame and the end of the last one; [] if there are no frames.

    Raises:
        UserError: the record is not a SequenceExample.
    """
    context = tf.train.Features()
    frames: list[int] = []
    for tag, start, end in _fields(data, 0, len(data)):
        if tag == _FIELD_1:
            context.MergeFrom(_parse_context(data[start:end]))
        elif tag == _FIELD_2:  # feature_lists
            for entry_tag, entry_start, entry_end in _fields(data, start, end):
                if entry_tag == _FIELD_1:
                    frames = frames or _frame_positions(data, entry_start, entry_end)
    return context, frames


def leading_context(data: memoryview) -> tf.train.Features | None:
    """The context at the start of a record; `data` may end after MAX_CONTEXT_BYTES.

    None if the record does not start with a context of that size.

    Raises:
        UserError: the context is damaged.
    """
    if not len(data) or data[0] != _FIELD_1:
        return None
    size, start = _varint(data, 1)
    return _parse_context(data[start : start + size]) if start + size <= len(data) else None


def _parse_context(data: memoryview) -> tf.train.Features:
    """Parses the bytes of a context. Raises UserError if they are not a message of features."""
    try:
        return tf.train.Features.FromString(bytes(data))
    except DecodeError as error:
        raise UserError(f"the context of the record is damaged ({error})") from error


def check_frames(data: memoryview, positions: Sequence[int]) -> None:
    """Raises UserError if a frame is not exactly one value with bytes, inside the record. `positions`: see `parse`."""
    for start in positions[:-1]:
        frame_bytes(data, start)


def frame_bytes(data: memoryview, start: int) -> memoryview:
    """The only value of the `Feature` {bytes_list {value}} at `start`. Raises UserError if there is none."""
    position, end, list_end = start, len(data), len(data)
    for _ in range(2):  # bytes_list, then its first value
        if position >= end or data[position] != _FIELD_1:
            raise UserError(f"the frame at byte {start} of the record is not a list of bytes, or it is empty")
        size, position = _varint(data, position + 1)
        if position + size > end:
            raise UserError(f"the frame at byte {start} of the record extends past the end of the record")
        list_end, end = end, position + size
    if end != list_end:
        raise UserError(f"the frame at byte {start} of the record has several values")
    return data[position:end]


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """The number at `position` and the position after it. Raises UserError if it has more than ten bytes."""
    value, shift, end = 0, 0, min(position + 10, len(data))
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise UserError(f"the record is not a SequenceExample (byte {position})")


def _frame_positions(data: memoryview, start: int, end: int) -> list[int]:
    """As `_feature_positions`, for the map entry between two positions if its key is that of the frames; else []."""
    key_and_value = {tag: (first, last) for tag, first, last in _fields(data, start, end)}
    key_start, key_end = key_and_value.get(_FIELD_1, (0, 0))
    if bytes(data[key_start:key_end]) != _FRAMES_KEY:
        return []
    return _feature_positions(data, *key_and_value.get(_FIELD_2, (0, 0)))


def _feature_positions(data: memoryview, position: int, end: int) -> list[int]:
    """Starts of the features of a feature list between two positions, and the end of the last one; [] if it is empty.

    Takes most of the time of `parse`.
    """
    positions = []
    while position < end:
        head = _read_head(data, position)[0] if position + _HEAD_BYTES <= end else 0
        if head & _HEAD_MASK == _LARGE_FIELD_1:
            size = head >> 8 & 0x7F | head >> 9 & 0x3F80 | head >> 10 & 0x1FC000
            position += _HEAD_BYTES
        else:
            _, position, last = next(_fields(data, position, end))
            size = last - position
        if not size or position + size > end:
            raise UserError(f"the frame at byte {position} of the record is empty or incomplete")
        positions.append(position)
        position += size
    return [*positions, position] if positions else []


def _fields(data: memoryview, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Tag, start and end of each length-delimited field between two positions."""
    while position < end:
        tag = data[position]
        size, start = _varint(data, position + 1)
        position = start + size
        if tag & 7 != _LENGTH_DELIMITED or position > end:
            raise UserError(f"the record is not a SequenceExample (byte {start})")
        yield tag, start, position
