"""Reads the bytes of a record by its number."""

import contextlib
import functools
import os
import resource
import weakref
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import tensorflow as tf

from dist_jax.data.checksum import masked_crc32c
from dist_jax.data.record_index import CHECKSUM_BYTES, FRAMING_BYTES, HEADER_BYTES, ShardIndex, is_valid_header
from dist_jax.files import is_remote

Parsed = TypeVar("Parsed")
Result = TypeVar("Result")


class ChecksumError(Exception):
    """The bytes of a record do not have the checksum that is stored with them."""


class RecordReader(Protocol):
    """Reads records. Several threads may use it."""

    def read(self, record: int) -> memoryview:
        """The bytes of a record. Raises ChecksumError if it is damaged."""

    def read_parts(self, record: int, parts: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Parts of a record that `read` has verified. A part is the position of its first byte and its end.

        Raises:
            ChecksumError: the record has changed, if the reader notices.
        """


def record_reader(index: ShardIndex) -> RecordReader:
    """A reader of local or remote shards (gs:// and others)."""
    return _RemoteRecords(index) if any(is_remote(path) for path in index.paths) else _LocalRecords(index)


class _LocalRecords:
    """Reads local shards without Python's global lock, so that other threads work while this one waits for a disk."""

    def __init__(self, index: ShardIndex) -> None:
        self._index = index
        self._open = functools.lru_cache(_max_open_shards())(_File)

    def read(self, record: int) -> memoryview:
        file, start, length = self._position(record)
        header = file.read(start - HEADER_BYTES, HEADER_BYTES)  # first: a damaged length can be that of a shard
        if header[:8] != length.to_bytes(8, "little") or not is_valid_header(header):
            raise ChecksumError("the header of the record is damaged")
        framed = file.read(start, length + CHECKSUM_BYTES)
        data, checksum = framed[:length], framed[length:]
        if masked_crc32c(data) != int.from_bytes(checksum, "little"):
            raise ChecksumError("the data of the record are damaged")
        return data

    def read_parts(self, record: int, parts: Sequence[tuple[int, int]]) -> list[memoryview]:
        file, start, _ = self._position(record)
        for first, end in parts:
            file.prefetch(start + first, end - first)
        data = [file.read(start + first, end - first) for first, end in parts]
        if any(len(part) != end - first for part, (first, end) in zip(data, parts, strict=True)):
            raise ChecksumError("the shard has become shorter")
        return data

    def _position(self, record: int) -> tuple["_File", int, int]:
        """The shard of a record, the position of its first byte there and its length."""
        index = self._index
        file = self._open(index.paths[index.shard[record]])
        return file, int(index.offset[record]) + HEADER_BYTES, int(index.length[record])


class _File:
    """A file for reading. It is closed when nothing refers to it, so that threads can share it."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, start: int, length: int) -> memoryview:
        """Bytes from position `start`; fewer than `length` at the end of the file."""
        data = os.pread(self._descriptor, length, start)
        while len(data) < length and (more := os.pread(self._descriptor, length - len(data), start + len(data))):
            data += more  # the system reads at most 2 GiB at a time
        return memoryview(data)

    def prefetch(self, start: int, length: int) -> None:
        """Starts to read bytes into the memory of the system. Does nothing where the system cannot."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._descriptor, start, length, os.POSIX_FADV_WILLNEED)


def _max_open_shards() -> int | None:
    """A quarter of the files that this process may open; None: any number.

    Systems allow 256 or 1024 open files by default, and a data set can have more shards. The rest is for the other
    split, checkpoints and logs.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else max(1, limit // 4)


class _RemoteRecords:
    """Reads a whole record, and verifies it, each time."""

    def __init__(self, index: ShardIndex) -> None:
        # NumPy can use the memory of numbers, but not that of a string: Python would copy it, and lock other threads.
        self.read: Callable[[int], memoryview] = tensorflow_reader(
            index, lambda data: tf.io.decode_raw(data, tf.uint8), lambda data: memoryview(data)
        )

    def read_parts(self, record: int, parts: Sequence[tuple[int, int]]) -> list[memoryview]:
        data = self.read(record)
        return [data[first:end] for first, end in parts]


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
