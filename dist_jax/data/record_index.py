"""Index of a set of shards: position and checksum of every record, stored in a file next to the shards.

A TFRecord file is a sequence of (length uint64, masked CRC32C of the length, data, masked CRC32C of the data),
little-endian. The first two are a record's header. After a damaged header, the index continues at the next valid
header; the bytes between them count as one bad record, which fails when it is read.

The content of the shards decides whether a stored index fits, not their modification times: copies open as before.
Opening compares the sizes of all shards and the stored checksums of sampled records. A small set is compared
completely. In a large set, a rewritten record of the same size may stay undetected. Its position in the index is
correct, so it is read like any other.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from dist_jax.data.checksum import masked_crc32c
from dist_jax.data.records import INDEX_SUFFIX, SHARD_NAME, find_shards, shard_path
from dist_jax.errors import UserError, warn
from dist_jax.files import exists, is_remote, read_bytes, size_and_mtime, unreadable, write_bytes

HEADER_BYTES = 12  # before a record's data
CHECKSUM_BYTES = 4  # after a record's data
FRAMING_BYTES = HEADER_BYTES + CHECKSUM_BYTES
_SEARCH_BYTES = 1 << 20  # read at once in the search for the next header
_NUM_SAMPLED = 512  # records that opening compares with the index, in addition to the first and last of each shard
_NUM_THREADS = 16  # hide the latency of remote files
_FORMAT = 3  # of the index file; an index of another format is built again


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """Position and checksum of each of n records, in the order of shards and offsets.

    Attributes:
        paths: the shards.
        sizes: int64 [shards], bytes, when the index was built.
        shard: int32 [n], index of the record's shard.
        offset: int64 [n], byte offset of the record's header in the shard.
        length: int64 [n], bytes of the record's data. With a damaged header: the bytes up to the next valid header.
        checksum: uint32 [n], masked CRC32C of the record's data, as stored in the shard.
    """

    paths: list[str]
    sizes: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    checksum: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def identity(self) -> str:
        """Hash of names, sizes, offsets and checksums: 12 hexadecimal digits. Copies of the shards have the same."""
        digest = hashlib.sha256("\n".join(map(os.path.basename, self.paths)).encode())
        for array in (self.sizes, self.shard, self.offset, self.checksum):
            digest.update(array.tobytes())
        return digest.hexdigest()[:12]

    def select(self, records: Sequence[int]) -> "ShardIndex":
        """The index of some of the records."""
        columns = {name: getattr(self, name)[records] for name in _COLUMNS}
        return dataclasses.replace(self, **columns)

    def location(self, record: int) -> str:
        """Record number, shard and offset, for messages."""
        return f"record {record} ({self.paths[self.shard[record]]} at byte {self.offset[record]})"

    def verify(self, index_file: str = "its index") -> None:
        """Raises UserError if a shard differs from the index in its size or in the checksums of sampled records.

        The samples are the first and the last record of each shard, and records at equal distances in the set; all
        records if the set has at most _NUM_SAMPLED. Every sample reads 4 bytes.
        """
        samples = self._sampled_records()
        with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
            new_sizes = pool.map(lambda path: size_and_mtime(path)[0], self.paths)
            for path, size, new_size in zip(self.paths, self.sizes, new_sizes, strict=True):
                if new_size != size:
                    raise _changed(path, f"{size} bytes before, {new_size} now", index_file)
            for record, checksum in zip(samples, pool.map(self._stored_checksum, samples), strict=True):
                if checksum != self.checksum[record]:
                    change = f"same size, but another record at byte {self.offset[record]}"
                    raise _changed(self.paths[self.shard[record]], change, index_file)

    def _sampled_records(self) -> list[int]:
        first = np.flatnonzero(np.diff(self.shard, prepend=-1))  # of each shard with records
        last = np.append(first[1:], len(self)) - 1
        spread = np.linspace(0, len(self) - 1, min(len(self), _NUM_SAMPLED)).astype(np.int64)
        return np.unique(np.concatenate([first, last, spread])).tolist()

    def _stored_checksum(self, record: int) -> int:
        """The checksum in the record's shard, not in the index."""
        with open_shard(self.paths[self.shard[record]]) as file:
            file.seek(int(self.offset[record] + HEADER_BYTES + self.length[record]))
            return int.from_bytes(file.read(CHECKSUM_BYTES), "little")


def _changed(path: str, change: str, index_file: str) -> UserError:
    return UserError(
        f"{path} has changed since {index_file} was built ({change}); if the change is intended, delete {index_file}"
    )


_COLUMNS = ("shard", "offset", "length", "checksum")  # fields with one value per record


def load_index(pattern: str) -> ShardIndex:
    """The index of the shards of `pattern` (see `find_shards`). Reads the stored index, or builds and stores it.

    Raises:
        UserError: as find_shards; an unreadable, truncated or damaged shard or index; a shard that differs from the
            stored index.
    """
    return load_index_of(find_shards(pattern))


def load_index_of(paths: Sequence[str]) -> ShardIndex:
    """As load_index, for the shards `paths`, which may be part of a set. Raises UserError if `paths` is empty."""
    if not paths:
        raise UserError("no shards are given: an index needs at least one")
    file = _index_path(paths)
    index = _read_index(file, paths) if exists(file) else None
    if index is not None:
        index.verify(file)
        return index
    index = build_index(paths)
    try:
        _save_index(file, index)
    except UserError as error:
        warn(f"the index of {len(index)} records cannot be stored ({error}); every start will build it again")
    return index


def write_index(prefix: str, num_shards: int) -> ShardIndex:
    """Builds the index of the shards PREFIX@NUM_SHARDS and stores it, replacing an older one.

    Raises:
        UserError: as build_index; the index cannot be written.
    """
    index = build_index(find_shards(f"{prefix}@{num_shards}"))
    _save_index(_index_path(index.paths), index)
    return index


def build_index(paths: Sequence[str]) -> ShardIndex:
    """Reads the headers of all records of the shards.

    Raises:
        UserError: a truncated shard, a shard without a valid header, or no records in any shard.
    """
    with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
        sizes, scans = zip(*pool.map(_scan_shard, paths), strict=True)
    offset, length, checksum = (np.concatenate(column) for column in zip(*scans, strict=True))
    if not len(offset):
        raise UserError(f"{paths[0]}: the set of {len(paths)} shards contains no records")
    return ShardIndex(
        paths=list(paths),
        sizes=np.array(sizes, np.int64),
        shard=np.repeat(np.arange(len(paths), dtype=np.int32), [len(offsets) for offsets, *_ in scans]),
        offset=offset,
        length=length,
        checksum=checksum,
    )


_Columns = tuple[np.ndarray, np.ndarray, np.ndarray]  # offset int64, length int64 and checksum uint32 of the records


def _scan_shard(path: str) -> tuple[int, _Columns]:
    """Size of a shard in bytes, and the columns of its records."""
    size = size_and_mtime(path)[0]
    with open_shard(path) as file:
        return size, _scan(file, path, size)


def _scan(file: io.RawIOBase | tf.io.gfile.GFile, path: str, size: int) -> _Columns:
    offsets: list[int] = []
    lengths: list[int] = []
    checksums: list[int] = []
    position, any_valid = 0, False
    header = file.read(HEADER_BYTES)
    while position < size:
        if is_valid_header(header):
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
        file.seek(position + HEADER_BYTES + length)
        data = file.read(FRAMING_BYTES)  # this record's checksum and the next record's header
        checksums.append(int.from_bytes(data[:CHECKSUM_BYTES], "little"))
        header = data[CHECKSUM_BYTES:]
        if position + FRAMING_BYTES + length != end:  # fewer damaged bytes than the framing of a record
            file.seek(end)
            header = file.read(HEADER_BYTES)
        position = end
    if offsets and not any_valid:
        raise UserError(
            f"{path} has no valid TFRecord header: it is damaged, compressed or not a TFRecord file; build or copy it "
            "again"
        )
    return np.array(offsets, np.int64), np.array(lengths, np.int64), np.array(checksums, np.uint32)


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
            if start + FRAMING_BYTES + length <= size and is_valid_header(header):
                return start
        position += len(data) - HEADER_BYTES + 1
    return size


def is_valid_header(header: bytes | memoryview) -> bool:
    """Whether the 12 bytes of a header are a length and its checksum."""
    return masked_crc32c(header[:8]) == int.from_bytes(header[8:], "little")


@contextlib.contextmanager
def open_shard(path: str) -> Iterator[io.RawIOBase | tf.io.gfile.GFile]:
    """Opens a shard. Errors of the file system become a UserError, also inside the context."""
    try:
        # Unbuffered: a header has 12 bytes and the next one is far away.
        with tf.io.gfile.GFile(path, "rb") if is_remote(path) else open(path, "rb", buffering=0) as file:
            yield file
    except (OSError, tf.errors.OpError) as error:
        raise unreadable(path, error) from error


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
    """Writes the index atomically. Raises UserError if it cannot be written."""
    arrays = dict(
        format=np.array(_FORMAT),
        names=np.array([os.path.basename(path) for path in index.paths]),
        sizes=index.sizes,
        **{name: getattr(index, name) for name in _COLUMNS},
    )
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(file, buffer.getvalue())


def _read_index(file: str, paths: Sequence[str]) -> ShardIndex | None:
    """The stored index; None if it has another format. Raises UserError if the file is unreadable or no index."""
    data = read_bytes(file)
    try:
        arrays = dict(np.load(io.BytesIO(data), allow_pickle=False))
        if int(arrays.pop("format")) != _FORMAT:
            return None
        names = [str(name) for name in arrays.pop("names")]
        index = ShardIndex(paths=list(paths), **arrays)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is not an index of records ({error}); delete it to build it again") from error
    if names != [os.path.basename(path) for path in paths]:
        raise UserError(f"{file} belongs to different shards ({names[0]}, ...); delete it to build it again")
    return index
