"""Reading the bytes of records, from local and remote shards; checksums."""

import os
import resource

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_jax.data import record_index
from dist_jax.data.checksum import masked_crc32c
from dist_jax.data.record_reader import ChecksumError, record_reader


def write(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return record_index.build_index([str(path)])


@pytest.mark.parametrize("folder", ["ram://reader", "local"])
def test_records_are_read_by_number(folder, tmp_path):
    records = [b"", b"a", bytes(range(256)) * 4096, b"last"]
    folder = tmp_path if folder == "local" else folder
    reader = record_reader(write(f"{folder}/train-00000-of-00001", records))
    for number in (3, 2, 1, 0, 2):
        record = records[number]
        assert bytes(reader.read(number)) == record
        parts = [(0, len(record)), (len(record) // 3, len(record) // 2)]
        assert [bytes(part) for part in reader.read_parts(number, parts)] == [record[a:b] for a, b in parts]


def test_the_checksum_is_the_masked_crc_32c():
    crc = 0xE3069283  # of "123456789", RFC 3720
    assert masked_crc32c(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@settings(max_examples=30)
@given(st.integers(0, 3 << 18), st.integers(0, 255))
def test_the_checksum_is_that_of_tensorflows_writer(size, value):
    data = np.full(size, value, np.uint8).tobytes()
    path = "ram://checksum/file"
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(data)
    with tf.io.gfile.GFile(path, "rb") as file:
        framed = file.read()
    assert masked_crc32c(memoryview(data)) == int.from_bytes(framed[-4:], "little")


@pytest.mark.parametrize(("byte", "part"), [(0, "header"), (9, "header"), (12, "data"), (30, "data"), (-1, "data")])
def test_a_changed_byte_is_found_at_the_first_read(tmp_path, byte, part):
    path = tmp_path / "train-00000-of-00001"
    index = write(path, [bytes(40), bytes(40)])
    framed = bytearray(path.read_bytes())
    framed[56 * (byte < 0) + byte] ^= 1  # the last byte is that of the first record's checksum
    path.write_bytes(framed)
    read = record_reader(index).read
    for _ in range(2):
        with pytest.raises(ChecksumError, match=f"{part} of the record"):
            read(0)
    assert bytes(read(1)) == bytes(40)


def test_a_truncated_shard_is_found(tmp_path):
    path = tmp_path / "train-00000-of-00001"
    index = write(path, [bytes(40), bytes(40)])
    path.write_bytes(path.read_bytes()[:-10])
    read = record_reader(index).read
    assert bytes(read(0)) == bytes(40)
    with pytest.raises(ChecksumError):
        read(1)


def test_more_shards_than_files_that_the_process_may_open(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    max_files = 2 * max(map(int, os.listdir("/dev/fd"))) + 32  # at least half of them are not open
    paths = [str(tmp_path / f"train-{shard:05d}-of-{max_files:05d}") for shard in range(max_files)]
    for shard, path in enumerate(paths):
        with tf.io.TFRecordWriter(path) as writer:
            writer.write(b"%d" % shard)
    index = record_index.build_index(paths)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, limit[1]))
    try:
        read = record_reader(index).read
        for _ in range(2):
            assert [bytes(read(number)) for number in range(len(paths))] == [b"%d" % n for n in range(len(paths))]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
