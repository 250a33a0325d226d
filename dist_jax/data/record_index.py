"""The index of a set of shards: every record addressed by its shard and offset, kept in a file beside them.

A TFRecord file is a sequence of (length uint64, masked CRC32C of it, data, masked CRC32C of the data), little-endian.
Where the first two, a record's header, are damaged, the records behind it are found by looking for the next sound
header; what lies between counts as one bad record, which fails when it is read.
"""

import concurrent.futures
import dataclasses
import hashlib
import io
import os
import socket
import zipfile
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from dist_jax.data.records import INDEX_SUFFIX, SHARD_NAME, find_shards, shard_path
from dist_jax.errors import UserError, warn
from dist_jax.files import size_and_mtime, unreadable

HEADER_BYTES = 12  # before a record's data
_FRAMING = HEADER_BYTES + 4  # bytes of a record beside its data; the last four are the data's CRC
_LOOK = 1 << 20  # bytes that are searched at once for the next header
_FORMAT = 2  # of the index file; one of another format is built anew


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """Where every record of a set of shards is; n records in the order of shards and offsets.

    Attributes:
        paths: the shards.
        sizes: int64 [shards], bytes, when the index was made.
        mtimes: int64 [shards], nanoseconds, when the index was made.
        shard: int32 [n], number of the record's shard.
        offset: int64 [n], byte of the shard at which the record's header begins.
        length: int64 [n], bytes of the record's data; of one with a damaged header, what lies before the next one.
    """

    paths: list[str]
    sizes: np.ndarray
    mtimes: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray

    def __len__(self) -> int:
        """Number of records."""
        return len(self.shard)

    @property
    def identity(self) -> str:
        """Tells these records, as they are, from any others: twelve hexadecimal digits."""
        digest = hashlib.sha256("\n".join(map(os.path.basename, self.paths)).encode())
        for array in (self.sizes, self.mtimes, self.shard, self.offset):
            digest.update(array.tobytes())
        return digest.hexdigest()[:12]

    def where(self, record: int) -> str:
        """How a message names a record."""
        return f"record {record} ({self.paths[self.shard[record]]} at byte {self.offset[record]})"

    def verify(self, source: str = "its index") -> None:
        """Raises UserError if a shard is not what it was when the index was made (size or time of change)."""
        for path, size, mtime in zip(self.paths, self.sizes, self.mtimes, strict=True):
            now = size_and_mtime(path)
            if now != (size, mtime):
                what = f"{size} bytes then, {now[0]} now" if now[0] != size else "same size, other time of change"
                raise UserError(
                    f"{path} has changed since {source} was made ({what}); if that is meant, delete {source}"
                )


def load_index(pattern: str) -> ShardIndex:
    """The index of the shards that `pattern` names: the one beside them, or built now and left beside them.

    Raises:
        UserError: as find_shards; a truncated or damaged shard; a shard that differs from the index beside it.
    """
    return load_index_of(find_shards(pattern))


def load_index_of(paths: Sequence[str]) -> ShardIndex:
    """As load_index, for the shards at `paths`, which may be a part of a set; UserError if there are none."""
    if not paths:
        raise UserError("no shards are named: an index of records needs one at least")
    file = _index_path(paths)
    index = _read_index(file, paths) if tf.io.gfile.exists(file) else None
    if index is not None:
        index.verify(file)
        return index
    index = build_index(paths)
    try:
        _save_index(file, index)
    except (OSError, tf.errors.OpError) as error:
        warn(f"the index of {len(index)} records cannot be kept ({error}): every start builds it anew")
    return index


def write_index(prefix: str, count: int) -> ShardIndex:
    """Builds the index of the shards `prefix`-?????-of-`count` and leaves it beside them, replacing an older one."""
    index = build_index(find_shards(f"{prefix}@{count}"))
    _save_index(_index_path(index.paths), index)
    return index


def build_index(paths: Sequence[str]) -> ShardIndex:
    """Reads the headers of all records of the shards.

    Raises:
        UserError: a shard that is cut short or has no sound header at all, or shards without any record.
    """
    stats = [size_and_mtime(path) for path in paths]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # remote files answer slowly, but many at a time
        scans = list(pool.map(_scan_shard, paths, [size for size, _ in stats]))
    offsets = [offset for offset, _ in scans]
    if not sum(map(len, offsets)):
        raise UserError(f"{paths[0]}: the {len(paths)} shards hold no record at all")
    return ShardIndex(
        paths=list(paths),
        sizes=np.array([size for size, _ in stats], np.int64),
        mtimes=np.array([mtime for _, mtime in stats], np.int64),
        shard=np.repeat(np.arange(len(paths), dtype=np.int32), list(map(len, offsets))),
        offset=np.concatenate(offsets),
        length=np.concatenate([length for _, length in scans]),
    )


def _scan_shard(path: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and data lengths of a shard's records, both int64."""
    try:
        with _open(path) as file:
            return _scan(file, path, size)
    except (OSError, tf.errors.OpError) as error:
        raise unreadable(path, error) from error


def _scan(file: io.RawIOBase | tf.io.gfile.GFile, path: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    offsets, lengths, position, sound = [], [], 0, False
    while position < size:
        file.seek(position)
        header = file.read(HEADER_BYTES)
        if _sound(header):
            length, sound = int.from_bytes(header[:8], "little"), True
            end = position + _FRAMING + length
        else:
            end = _next_header(file, position + 1, size)
            length = max(end - position - _FRAMING, 0)
        if end > size or len(header) < HEADER_BYTES:
            raise UserError(
                f"{path} is cut short: the record at byte {position} goes beyond its {size} bytes; make or copy it "
                "again"
            )
        offsets.append(position)
        lengths.append(length)
        position = end
    if offsets and not sound:
        raise UserError(
            f"{path}: no TFRecord begins at byte 0 or behind: the file is damaged or compressed or no TFRecord file; "
            "make or copy it again"
        )
    return np.array(offsets, np.int64), np.array(lengths, np.int64)


def _next_header(file: io.RawIOBase | tf.io.gfile.GFile, position: int, size: int) -> int:
    """The first byte from `position` on at which a sound header begins whose record fits into the file; else `size`.

    The damaged header's own length is not asked: if it is wrong, it may lead behind sound records.
    """
    while position + _FRAMING <= size:
        file.seek(position)
        data = file.read(_LOOK)
        if len(data) < HEADER_BYTES:
            break
        zero = np.frombuffer(data, np.uint8) == 0
        # Only these are looked at one by one: a length below 2^40, whose bytes 5 to 7 are zero, and a CRC that is not.
        empty = zero[8:-3] & zero[9:-2] & zero[10:-1] & zero[11:]
        for place in np.flatnonzero(zero[5:-6] & zero[6:-5] & zero[7:-4] & ~empty).tolist():
            header = data[place : place + HEADER_BYTES]
            begin, length = position + place, int.from_bytes(header[:8], "little")
            if begin + _FRAMING + length <= size and _sound(header):
                return begin
        position += len(data) - HEADER_BYTES + 1
    return size


def _sound(header: bytes) -> bool:
    return _masked_crc32c(header[:8]) == int.from_bytes(header[8:], "little")


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)  # Castagnoli's polynomial, reversed
        table.append(value)
    return table


_CRC_TABLE = _crc_table()


def _masked_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF  # the rotation and constant of the TFRecord format


def _open(path: str) -> io.RawIOBase | tf.io.gfile.GFile:
    # Unbuffered: a header is 12 bytes and the next one is far away.
    return tf.io.gfile.GFile(path, "rb") if "://" in path else open(path, "rb", buffering=0)


def _index_path(paths: Sequence[str]) -> str:
    """PREFIX.index.npz for all shards of a set in their order; for any others a name that tells them apart."""
    first = SHARD_NAME.fullmatch(paths[0])
    if first:
        prefix, count, suffix = first["prefix"], int(first["count"]), first["suffix"] or ""
        if list(paths) == [shard_path(prefix, number, count) + suffix for number in range(count)]:
            return prefix + suffix + INDEX_SUFFIX
    digest = hashlib.sha256("\n".join(map(os.path.basename, paths)).encode()).hexdigest()[:12]
    return os.path.join(os.path.dirname(paths[0]), digest + INDEX_SUFFIX)


def _save_index(file: str, index: ShardIndex) -> None:
    """Whole or not at all: written under a temporary name, then renamed."""
    arrays = dict(
        format=np.array(_FORMAT),
        names=np.array([os.path.basename(path) for path in index.paths]),
        **{name: getattr(index, name) for name in ("sizes", "mtimes", "shard", "offset", "length")},
    )
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    temporary = f"{file}.{socket.gethostname()}-{os.getpid()}.tmp"  # several hosts may write it at once
    with tf.io.gfile.GFile(temporary, "wb") as out:
        out.write(buffer.getvalue())
    tf.io.gfile.rename(temporary, file, overwrite=True)


def _read_index(file: str, paths: Sequence[str]) -> ShardIndex | None:
    """The stored index; None if it is of another format."""
    try:
        with tf.io.gfile.GFile(file, "rb") as stored:
            arrays = dict(np.load(io.BytesIO(stored.read()), allow_pickle=False))
        if int(arrays.pop("format")) != _FORMAT:
            return None
        names = [str(name) for name in arrays.pop("names")]
        index = ShardIndex(paths=list(paths), **arrays)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is no index of records ({error}); delete it and it is built anew") from error
    if names != [os.path.basename(path) for path in paths]:
        raise UserError(f"{file} was made for other shards ({names[0]}, ...); delete it and it is built anew")
    return index
