"""Reads the bytes of a record by its number."""

import functools
import mmap
import resource
from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
import tensorflow as tf

from dist_jax.data.checksum import masked_crc32c
from dist_jax.data.record_index import CHECKSUM_BYTES, FRAMING_BYTES, HEADER_BYTES, ShardIndex, is_valid_header
from dist_jax.files import is_remote

_PREFETCH_BYTES = 1 << 17  # Linux ignores the part of a larger range (queue/read_ahead_kb, 128 by default)

Parsed = TypeVar("Parsed")
Result = TypeVar("Result")


class RecordReader(Protocol):
    """Reads the bytes of records. Several threads may use it."""

    def read(self, record: int) -> memoryview:
        """The bytes of a record. Raises ChecksumError if it is damaged."""

    def prefetch(self, record: int, first: int, end: int) -> None:
        """Starts to read the bytes from `first` to `end` (exclusive) of a record from the disk."""


class ChecksumError(Exception):
    """The bytes of a record do not have the checksum that is stored with them."""


def record_reader(index: ShardIndex) -> RecordReader:
    """A reader of local shards that are mapped, or of remote shards (gs:// and others)."""
    return _RemoteRecords(index) if any(is_remote(path) for path in index.paths) else _MappedRecords(index)


class _MappedRecords:
    """Local shards are mapped: later code reads only the bytes that it needs.

    The checksum of a record is verified when it is read for the first time. The system reads no bytes ahead except
    those of `prefetch`, because the next frames of a clip are far away.

    A shard must not become shorter while it is mapped: the operating system then ends the process (SIGBUS).
    """

    def __init__(self, index: ShardIndex) -> None:
        self._index = index
        self._is_verified = np.zeros(len(index), bool)
        self._map = functools.lru_cache(_max_mapped_shards())(_map_file)

    def read(self, record: int) -> memoryview:
        shard, start, length = self._position(record)
        if not self._is_verified[record]:
            _prefetch(shard, start, start + length)
            _verify(memoryview(shard)[start - HEADER_BYTES : start + length + CHECKSUM_BYTES], length)
            self._is_verified[record] = True
        return memoryview(shard)[start : start + length]

    def prefetch(self, record: int, first: int, end: int) -> None:
        shard, start, _ = self._position(record)
        _prefetch(shard, start + first, start + end)

    def _position(self, record: int) -> tuple[mmap.mmap, int, int]:
        """The mapped shard of a record, its first byte there and its length."""
        index = self._index
        shard = self._map(index.paths[index.shard[record]])
        return shard, int(index.offset[record]) + HEADER_BYTES, int(index.length[record])


def _map_file(path: str) -> mmap.mmap:
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    return mapped


def _prefetch(mapped: mmap.mmap, start: int, end: int) -> None:
    """Starts to read the pages of the bytes from `start` to `end`, or to the end of a file that is shorter."""
    end = min(end, len(mapped))
    for first in range(start // mmap.PAGESIZE * mmap.PAGESIZE, end, _PREFETCH_BYTES):
        mapped.madvise(mmap.MADV_WILLNEED, first, min(end - first, _PREFETCH_BYTES))


def _max_mapped_shards() -> int | None:
    """A quarter of the files that this process may open; None: any number.

    A mapped file stays open. Systems allow 256 or 1024 open files by default, and a data set can have more shards. The
    rest is for the other split, checkpoints and logs.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else max(1, limit // 4)


def _verify(framed: memoryview, length: int) -> None:
    """Checks a record of `length` bytes with its header and checksum."""
    header, data, checksum = framed[:HEADER_BYTES], framed[HEADER_BYTES:-CHECKSUM_BYTES], framed[-CHECKSUM_BYTES:]
    if len(data) != length or header[:8] != length.to_bytes(8, "little") or not is_valid_header(header):
        raise ChecksumError("the header of the record is damaged")
    if masked_crc32c(data) != int.from_bytes(checksum, "little"):
        raise ChecksumError("the data of the record are damaged")


class _RemoteRecords:
    """Records that are read completely, and verified, each time."""

    def __init__(self, index: ShardIndex) -> None:
        # NumPy can use the memory of numbers, but not that of a string: Python would copy it, and lock other threads.
        self.read = tensorflow_reader(index, lambda data: tf.io.decode_raw(data, tf.uint8), memoryview)

    def prefetch(self, record: int, first: int, end: int) -> None:
        """Does nothing: `read` has read the whole record."""


def tensorflow_reader(
    index: ShardIndex, parse: Callable[[tf.Tensor], Parsed], finish: Callable[[Parsed], Result]
) -> Callable[[int], Result]:
    """Returns a function: record number -> finish(parse(the record's bytes)), for local and remote records.

    TensorFlow's TFRecord reader reads the record and verifies its checksum each time. `parse` is a TensorFlow function
    of a string; `finish` gets its eager results. The function raises ChecksumError for a damaged record.
    """

    @functools.partial(tf.function, autograph=False)
    def read_and_parse(path: tf.Tensor, offset: tf.Tensor, length: tf.Tensor) -> Parsed:
        return parse(_read_tfrecord(path, offset, length))

    def read(record: int) -> Result:
        path, offset, length = index.paths[index.shard[record]], index.offset[record], index.length[record]
        arguments = tf.constant(path), tf.constant(offset, tf.int64), tf.constant(length, tf.int64)
        try:
            return finish(read_and_parse(*arguments))
        except tf.errors.DataLossError as error:
            raise ChecksumError(error.message) from error

    return read


def _read_tfrecord(path: tf.Tensor, offset: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    dataset = tf.raw_ops.TFRecordDatasetV2(
        filenames=path[None],
        compression_type="",
        buffer_size=length + FRAMING_BYTES,  # the whole record in one request
        byte_offsets=offset[None],
    )
    first = tf.raw_ops.TakeDataset(
        input_dataset=dataset, count=tf.constant(1, tf.int64), output_types=[tf.string], output_shapes=[[]]
    )
    return tf.raw_ops.DatasetToSingleElement(dataset=first, output_types=[tf.string], output_shapes=[[]])[0]
