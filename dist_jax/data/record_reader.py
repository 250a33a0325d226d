"""Reads the bytes of a record by its number."""

import functools
import mmap
import resource
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import tensorflow as tf

from dist_jax.data.checksum import masked_crc32c
from dist_jax.data.record_index import CHECKSUM_BYTES, FRAMING_BYTES, HEADER_BYTES, ShardIndex, is_valid_header
from dist_jax.files import is_remote

ReadRecord = Callable[[int], memoryview]
Parsed = TypeVar("Parsed")
Result = TypeVar("Result")


class ChecksumError(Exception):
    """The bytes of a record do not have the checksum that is stored with them."""


def record_reader(index: ShardIndex) -> ReadRecord:
    """Returns a function: record number -> the record's bytes. Several threads may call it.

    Local shards are mapped: later code copies only the bytes that it needs. The checksum of a record is verified when
    this function reads it for the first time. Remote records (gs:// and others) are read and verified each time.

    A local shard must not become shorter while it is mapped: the operating system then ends the process (SIGBUS).

    The function raises ChecksumError for a damaged record.
    """
    return _remote_reader(index) if any(is_remote(path) for path in index.paths) else _mapped_reader(index)


def _mapped_reader(index: ShardIndex) -> ReadRecord:
    is_verified = np.zeros(len(index), bool)

    @functools.lru_cache(_max_mapped_shards())
    def map_shard(shard: int) -> memoryview:
        with open(index.paths[shard], "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def read(record: int) -> memoryview:
        start, length = int(index.offset[record]), int(index.length[record])
        framed = map_shard(int(index.shard[record]))[start : start + length + FRAMING_BYTES]
        if not is_verified[record]:
            _verify(framed, length)
            is_verified[record] = True
        return framed[HEADER_BYTES:-CHECKSUM_BYTES]

    return read


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


def _remote_reader(index: ShardIndex) -> ReadRecord:
    # NumPy can use the memory of numbers, but not that of a string: Python would copy it, and lock other threads.
    return tensorflow_reader(index, lambda data: tf.io.decode_raw(data, tf.uint8), memoryview)


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
