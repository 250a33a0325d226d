"""Index of a set of shards: the shard and offset of every record, stored in a file next to the shards.

A TFRecord file is a sequence of (length uint64, masked CRC32C of the length, data, masked CRC32C of the data),
little-endian. The first two are a record's header. After a damaged header, the index continues at the next valid
header; the bytes between them count as one bad record, which fails when it is read.
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
from dist_jax.files import is_remote, size_and_mtime, unreadable

HEADER_BYTES = 12  # before a record's data
FRAMING_BYTES = HEADER_BYTES + 4  # header and the data's checksum
_SEARCH_BYTES = 1 << 20  # read at once in the search for the next header
_FORMAT = 2  # of the index file; an index of another format is built again


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """The shard and offset of each of n records, in the order of shards and offsets.

    Attributes:
        paths: the shards.
        sizes: int64 [shards], bytes, when the index was built.
        mtimes: int64 [shards], modification times in nanoseconds, when the index was built.
        shard: int32 [n], index of the record's shard.
        offset: int64 [n], byte offset of the record's header in the shard.
        length: int64 [n], bytes of the record's data. With a damaged header: the bytes up to the next valid header.
    """

    paths: list[str]
    sizes: np.ndarray
    mtimes: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def identity(self) -> str:
        """Hash of names, sizes, modification times and offsets: 12 hexadecimal digits."""
        digest = hashlib.sha256("\n".join(map(os.path.basename, self.paths)).encode())
        for array in (self.sizes, self.mtimes, self.shard, self.offset):
            digest.update(array.tobytes())
        return digest.hexdigest()[:12]

    def location(self, record: int) -> str:
        """Record number, shard and offset, for messages."""
        return f"record {record} ({self.paths[self.shard[record]]} at byte {self.offset[record]})"

    def verify(self, index_file: str = "its index") -> None:
        """Raises UserError if the size or modification time of a shard differs from the index."""
        for path, size, mtime in zip(self.paths, self.sizes, self.mtimes, strict=True):
            new_size, new_mtime = size_and_mtime(path)
            if (new_size, new_mtime) != (size, mtime):
                change = "different modification time" if new_size == size else f"{size} bytes before, {new_size} now"
                raise UserError(
                    f"{path} has changed since {index_file} was built ({change}); if the change is intended, delete "
                    f"{index_file}"
                )


def load_index(pattern: str) -> ShardIndex:
    """The index of the shards of `pattern` (see `find_shards`). Reads the stored index, or builds and stores it.

    Raises:
        UserError: as find_shards; a truncated or damaged shard; a shard that differs from the stored index.
    """
    return load_index_of(find_shards(pattern))


def load_index_of(paths: Sequence[str]) -> ShardIndex:
    """As load_index, for the shards `paths`, which may be part of a set. Raises UserError if `paths` is empty."""
    if not paths:
        raise UserError("no shards are given: an index needs at least one")
    file = _index_path(paths)
    index = _read_index(file, paths) if tf.io.gfile.exists(file) else None
    if index is not None:
        index.verify(file)
        return index
    index = build_index(paths)
    try:
        _save_index(file, index)
    except (OSError, tf.errors.OpError) as error:
        warn(f"the index of {len(index)} records cannot be stored ({error}); every start will build it again")
    return index


def write_index(prefix: str, num_shards: int) -> ShardIndex:
    """Builds the index of the shards PREFIX@NUM_SHARDS and stores it, replacing an older one."""
    index = build_index(find_shards(f"{prefix}@{num_shards}"))
    _save_index(_index_path(index.paths), index)
    return index


def build_index(paths: Sequence[str]) -> ShardIndex:
    """Reads the headers of all records of the shards.

    Raises:
        UserError: a truncated shard, a shard without a valid header, or no records in any shard.
    """
    stats = [size_and_mtime(path) for path in paths]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # hides the latency of remote files
        scans = list(pool.map(_scan_shard, paths, [size for size, _ in stats]))
    offsets = [offset for offset, _ in scans]
    if not sum(map(len, offsets)):
        raise UserError(f"{paths[0]}: the set of {len(paths)} shards contains no records")
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
    offsets, lengths, position, any_valid = [], [], 0, False
    while position < size:
        file.seek(position)
        header = file.read(HEADER_BYTES)
        if _is_valid(header):
            length, any_valid = int.from_bytes(header[:8], "little"), True
            end = position + FRAMING_BYTES + length
        else:
            end = _next_header(file, position + 1, size)
            length = max(end - position - FRAMING_BYTES, 0)
        if end > size or len(header) < HEADER_BYTES:
            raise UserError(
                f"{path} is truncated: the record at byte {position} extends past the end of the file ({size} bytes); "
                "build or copy the file again"
            )
        offsets.append(position)
        lengths.append(length)
        position = end
    if offsets and not any_valid:
        raise UserError(
            f"{path} has no valid TFRecord header: it is damaged, compressed or not a TFRecord file; build or copy it "
            "again"
        )
    return np.array(offsets, np.int64), np.array(lengths, np.int64)


def _next_header(file: io.RawIOBase | tf.io.gfile.GFile, position: int, size: int) -> int:
    """The first valid header at or after byte `position` whose record fits into the file; `size` if there is none.

    The length in the damaged header is not used: if it is wrong, it could skip valid records.
    """
    while position + FRAMING_BYTES <= size:
        file.seek(position)
        data = file.read(_SEARCH_BYTES)
        if len(data) < HEADER_BYTES:
            break
        zero = np.frombuffer(data, np.uint8) == 0
        # Candidates have a length below 2^40 (bytes 5 to 7 are zero) and a CRC that is not zero.
        zero_crc = zero[8:-3] & zero[9:-2] & zero[10:-1] & zero[11:]
        for candidate in np.flatnonzero(zero[5:-6] & zero[6:-5] & zero[7:-4] & ~zero_crc).tolist():
            header = data[candidate : candidate + HEADER_BYTES]
            start, length = position + candidate, int.from_bytes(header[:8], "little")
            if start + FRAMING_BYTES + length <= size and _is_valid(header):
                return start
        position += len(data) - HEADER_BYTES + 1
    return size


def _is_valid(header: bytes) -> bool:
    return _masked_crc32c(header[:8]) == int.from_bytes(header[8:], "little")


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)  # Castagnoli polynomial, bit-reversed
        table.append(value)
    return table


_CRC_TABLE = _crc_table()


def _masked_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF  # masking of the TFRecord format


def _open(path: str) -> io.RawIOBase | tf.io.gfile.GFile:
    # Unbuffered: a header has 12 bytes and the next one is far away.
    return tf.io.gfile.GFile(path, "rb") if is_remote(path) else open(path, "rb", buffering=0)


def _index_path(paths: Sequence[str]) -> str:
    """PREFIX.index.npz for all shards of a set in order; a hash of the names for any other list of shards."""
    first = SHARD_NAME.fullmatch(paths[0])
    if first:
        prefix, num_shards, suffix = first["prefix"], int(first["count"]), first["suffix"] or ""
        if list(paths) == [shard_path(prefix, number, num_shards) + suffix for number in range(num_shards)]:
            return prefix + suffix + INDEX_SUFFIX
    digest = hashlib.sha256("\n".join(map(os.path.basename, paths)).encode()).hexdigest()[:12]
    return os.path.join(os.path.dirname(paths[0]), digest + INDEX_SUFFIX)


def _save_index(file: str, index: ShardIndex) -> None:
    """Writes the index atomically, through a temporary name."""
    arrays = dict(
        format=np.array(_FORMAT),
        names=np.array([os.path.basename(path) for path in index.paths]),
        **{name: getattr(index, name) for name in ("sizes", "mtimes", "shard", "offset", "length")},
    )
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    temporary = f"{file}.{socket.gethostname()}-{os.getpid()}.tmp"  # several hosts may write at the same time
    with tf.io.gfile.GFile(temporary, "wb") as output:
        output.write(buffer.getvalue())
    tf.io.gfile.rename(temporary, file, overwrite=True)


def _read_index(file: str, paths: Sequence[str]) -> ShardIndex | None:
    """The stored index; None if it has another format."""
    try:
        with tf.io.gfile.GFile(file, "rb") as stored:
            arrays = dict(np.load(io.BytesIO(stored.read()), allow_pickle=False))
        if int(arrays.pop("format")) != _FORMAT:
            return None
        names = [str(name) for name in arrays.pop("names")]
        index = ShardIndex(paths=list(paths), **arrays)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is not an index of records ({error}); delete it to build it again") from error
    if names != [os.path.basename(path) for path in paths]:
        raise UserError(f"{file} belongs to different shards ({names[0]}, ...); delete it to build it again")
    return index
