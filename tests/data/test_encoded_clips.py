"""Clips of encoded images, from local and remote records."""

import itertools
import os
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow as tf
from helpers.small_records import NUM_CLASSES, decoded, example, jpeg, picture, write_shards

from dist_jax import config as configuration
from dist_jax.data import encoded_clips, pipeline, record_index, records, sequence_example, sources
from dist_jax.data.bad_records import BadRecords
from dist_jax.data.record_reader import ChecksumError
from dist_jax.errors import UserError


def open_pattern(pattern, label_feature=records.LABEL):
    return open_index(record_index.load_index(pattern), label_feature)


def open_index(index, label_feature=records.LABEL):
    return encoded_clips.sequence_source(index, {"label": label_feature}, {"label": NUM_CLASSES})


@pytest.fixture
def pattern(tmp_path):
    return write_shards(tmp_path, [example(record) for record in range(7)], shards=2)


def copied_to_memory(pattern, folder):
    """Copies shards to TensorFlow's in-memory file system, with the interface of gs://. Returns the pattern there."""
    name, _, shards = pattern.rpartition("@")
    tf.io.gfile.makedirs(folder)
    tf.io.gfile.copy(f"{os.path.dirname(name)}/labels.txt", f"{folder}/labels.txt")
    for shard in range(int(shards)):
        path = records.shard_path(f"{folder}/train", shard, int(shards))
        tf.io.gfile.copy(records.shard_path(name, shard, int(shards)), path)
    return f"{folder}/train@{shards}"


def test_remote_clips_equal_local_clips(pattern):
    local, remote = open_pattern(pattern), open_pattern(copied_to_memory(pattern, "ram://clips"))
    assert (local.size, local.num_classes) == (remote.size, remote.num_classes)
    for record in [*range(7), *range(7)]:  # the second read of a local record does not verify the checksum
        clip, expected = local.read(record), remote.read(record)
        choice = [4, 0, 2], [3, 5, 12, 20]
        np.testing.assert_array_equal(decoded(clip, *choice), decoded(expected, *choice))
        assert (clip.num_frames, clip.height, clip.width, clip.id) == (6, 24, 32, expected.id)
        np.testing.assert_array_equal(clip.labels["label"], expected.labels["label"])


def test_later_reads_of_a_local_record_read_only_the_chosen_frames(pattern):
    index, source = record_index.load_index(pattern), open_pattern(pattern)
    expected = source.read(0)
    pixels = decoded(expected, [0, 3])
    path, start, length = Path(index.paths[0]), int(index.offset[0]) + record_index.HEADER_BYTES, int(index.length[0])
    data = bytearray(path.read_bytes())
    _, positions = sequence_example.parse(memoryview(data)[start : start + length])
    for first, end in ((0, positions[0]), (positions[1], positions[3]), (positions[4], length)):
        data[start + first : start + end] = bytes(end - first)
    path.write_bytes(data)
    clip = source.read(0)
    assert (clip.num_frames, clip.id, clip.labels) == (6, expected.id, expected.labels)
    np.testing.assert_array_equal(decoded(clip, [0, 3]), pixels)
    with pytest.raises(UserError, match="is not a list of bytes"):
        decoded(clip, [1])


def test_a_shard_that_becomes_shorter_makes_bad_records(pattern):
    index, source = record_index.load_index(pattern), open_pattern(pattern)
    source.read(1)
    os.truncate(index.paths[0], int(index.offset[1]) + 100)
    with pytest.raises(ChecksumError, match="the shard has become shorter"):
        decoded(source.read(1), [5])
    with pytest.raises(ChecksumError):
        open_index(index).read(1)


def test_a_context_after_the_frames_is_found(tmp_path):
    record = tf.train.SequenceExample.FromString(example(4))
    context, frames = tf.train.SequenceExample(), tf.train.SequenceExample()
    context.context.CopyFrom(record.context)
    frames.feature_lists.CopyFrom(record.feature_lists)
    parts = [frames.SerializeToString(), context.SerializeToString()]
    source = open_pattern(write_shards(tmp_path, [b"".join(parts)], shards=1))
    for _ in range(2):
        assert source.read(0).id == b"4.mp4"


def test_a_window_of_a_clip_is_cut_out_of_its_frames(pattern):
    clip = open_pattern(pattern).read(2)
    frames = decoded(clip, [1, 1, 5], [3, 5, 12, 20])
    assert frames.shape == (3, 12, 20, 3)
    np.testing.assert_array_equal(frames, decoded(clip)[[1, 1, 5], 3:15, 5:25])


def test_the_context_is_read_without_the_frames(tmp_path):
    pattern = write_shards(tmp_path, [example(3), b"", b"\x0a", b"\x0a\x7f", b"\x0a\x02zz", b"\x12\x00"], shards=1)
    index = record_index.load_index(pattern)
    context = encoded_clips.read_context(index, 0)
    assert context.feature[records.FILENAME].bytes_list.value == [b"3.mp4"]
    assert [encoded_clips.read_context(index, record) for record in range(1, 6)] == [None] * 5


def test_verb_labels_can_be_read_and_a_record_may_have_no_name(tmp_path):
    sequence = tf.train.SequenceExample()
    sequence.context.feature[records.VERB].int64_list.value[:] = [3]
    for frame in range(5):
        sequence.feature_lists.feature_list[records.FRAMES].feature.add().bytes_list.value[:] = [
            jpeg(picture(0, frame))
        ]
    clip = open_pattern(write_shards(tmp_path, [sequence.SerializeToString()], shards=1), records.VERB).read(0)
    assert clip.labels["label"].tolist() == [3]
    assert clip.id == b"0"


def test_labels_are_read_without_the_frames(pattern, tmp_path):
    source = open_pattern(pattern)
    for record in range(source.size):
        np.testing.assert_array_equal(source.labels(record)["label"], source.read(record).labels["label"])
    write_shards(tmp_path / "other", [b"no record"], shards=1)
    assert open_pattern(str(tmp_path / "other" / "train@1")).labels(0) is None


def test_a_label_of_another_type_is_an_error(tmp_path):
    source = open_pattern(write_shards(tmp_path, [example(0)], shards=1), records.FILENAME)
    with pytest.raises(UserError, match="video/filename of the record is a bytes_list, expected an int64_list"):
        source.read(0)


def test_a_damaged_record_fails_the_checksum(pattern):
    source = open_pattern(pattern)
    index = record_index.load_index(pattern)
    with open(index.paths[0], "r+b") as file:
        file.seek(index.offset[1] + 12 + int(index.length[1]) - 20)  # a byte of the last frame
        file.write(b"\x00\x01\x02")
    for _ in range(2):
        with pytest.raises(ChecksumError, match="data of the record are damaged"):
            source.read(1)
    source.read(0)


def test_a_record_without_frames_or_of_another_type_cannot_be_read(tmp_path):
    empty = tf.train.SequenceExample().SerializeToString()
    source = open_pattern(write_shards(tmp_path, [example(0), empty, b"not an example"], shards=1))
    assert source.read(0).id == b"0.mp4"
    with pytest.raises(UserError, match="no frames"):
        source.read(1)
    with pytest.raises(UserError, match="not a SequenceExample"):
        source.read(2)


def with_empty_frame(record, frame, has_empty_list):
    sequence = tf.train.SequenceExample.FromString(example(record))
    feature = sequence.feature_lists.feature_list[records.FRAMES].feature[frame]
    feature.Clear()
    if has_empty_list:
        feature.bytes_list.SetInParent()
    return sequence.SerializeToString(deterministic=True)


@pytest.mark.parametrize("frame", [0, 2, 5])
@pytest.mark.parametrize("has_empty_list", [True, False])
def test_an_empty_frame_makes_a_bad_record(tmp_path, frame, has_empty_list):
    pattern = write_shards(tmp_path, [example(0), with_empty_frame(1, frame, has_empty_list), example(2)], shards=1)
    config = configuration.defaults()
    config.data.train, config.data.max_bad_fraction = pattern, 1.0
    config.batch_size, config.mix.group_size, config.model.num_frames = 3, 1, 6
    source, bad_records = sources.open_source(config.data, "train"), BadRecords("train")
    batch = next(pipeline.train_batches(config, source, 0, slice(None), 16, bad_records))
    assert set(batch["record"].tolist()) == {0, 2}
    assert sum(bad_records.counts.values()) == 1


def test_local_and_remote_records_give_the_same_batches(tmp_path):
    pattern = write_shards(tmp_path, [example(0), b"broken", *(example(record) for record in range(2, 9))], shards=2)
    config = configuration.defaults()
    config.data.max_bad_fraction = 0.5
    config.batch_size, config.mix.group_size, config.model.num_frames = 4, 1, 4
    results = []
    for config.data.train in (pattern, copied_to_memory(pattern, "ram://batches")):
        source, bad_records = sources.open_source(config.data, "train"), BadRecords("train")
        batches = itertools.islice(pipeline.train_batches(config, source, 0, slice(None), 16, bad_records), 6)
        results.append((list(batches), bad_records))
    (local, local_bad), (remote, remote_bad) = results
    for batch, expected in zip(local, remote, strict=True):
        jax.tree.map(np.testing.assert_array_equal, batch, expected)
    assert local_bad.counts == remote_bad.counts == {"record": 1}


def test_a_new_source_reads_the_new_content_of_a_rewritten_shard(pattern):
    open_pattern(pattern).read(0)
    path = Path(records.find_shards(pattern)[0])
    path.unlink()
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(example(6))
    index = record_index.build_index([str(path)])
    assert open_index(index).read(0).id == b"6.mp4"
