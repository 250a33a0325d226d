"""Reading only the chosen frames of a record gives the same clips as reading whole records."""

import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow as tf
from helpers.small_records import NUM_CLASSES, example, jpeg, picture, write_shards
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_jax import config as configuration
from dist_jax.data import encoded_clips, frame_reader, pipeline, record_index, record_source, records, sources
from dist_jax.data.bad_records import BadRecords
from dist_jax.errors import UserError


def open_pattern(pattern, label_feature=records.LABEL):
    return frame_reader.open_source(record_index.load_index(pattern), {"label": label_feature}, {"label": NUM_CLASSES})


def read_clip(source, record, indices=(4, 0, 2), window=(3, 5, 12, 20)):
    features = source.read(tf.constant(record, tf.int64))
    choice = {"indices": tf.constant(indices), "window": tf.constant(window)}
    decoded = source.decode(features | choice)
    return features, decoded["video"][:, :, decoded["left"] :].numpy()


@pytest.fixture
def pattern(tmp_path):
    return write_shards(tmp_path, [example(record) for record in range(7)], shards=2)


def test_clips_equal_those_of_whole_records(pattern):
    whole = encoded_clips.encoded_source(
        record_index.load_index(pattern), encoded_clips.record_parser({"label": records.LABEL}), {"label": NUM_CLASSES}
    )
    partial = open_pattern(pattern)
    assert (partial.size, partial.num_classes) == (whole.size, whole.num_classes)
    assert partial.location(3) == whole.location(3)
    for record in [*range(7), *range(7)]:  # the second read does not verify the checksum
        (features, video), (expected, expected_video) = read_clip(partial, record), read_clip(whole, record)
        np.testing.assert_array_equal(video, expected_video)
        for name in ("num_frames", "height", "width", "id"):
            np.testing.assert_array_equal(features[name], expected[name])
        np.testing.assert_array_equal(features["labels"]["label"], expected["labels"]["label"])


@settings(deadline=None, max_examples=60)
@given(
    frames=st.lists(st.binary(max_size=300), max_size=5),
    others=st.dictionaries(st.text("abiz/", min_size=1, max_size=3), st.lists(st.binary(max_size=200), max_size=3)),
    label=st.integers(0, 2**40),
)
def test_frames_and_context_of_any_sequence_example_are_found(frames, others, label):
    sequence = tf.train.SequenceExample()
    sequence.context.feature[records.LABEL].int64_list.value[:] = [label]
    for key, values in [*others.items(), (records.FRAMES, frames)]:
        for value in values:
            sequence.feature_lists.feature_list[key].feature.add().bytes_list.value[:] = [value]
    data = memoryview(sequence.SerializeToString())
    context, starts = frame_reader._find_frames(data)
    assert [frame_reader._frame_bytes(data, start) for start in starts] == frames
    assert tf.train.SequenceExample.FromString(context).context == sequence.context


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60))
def test_arbitrary_bytes_raise_a_user_error_or_contain_few_frames(data):
    try:
        _, starts = frame_reader._find_frames(memoryview(data))
    except UserError:
        return
    assert len(starts) <= len(data)


def test_the_context_is_read_without_the_frames(tmp_path):
    pattern = write_shards(tmp_path, [example(3), b"", b"\x0a", b"\x0a\x7f", b"\x0a\x02zz", b"\x12\x00"], shards=1)
    index = record_index.load_index(pattern)
    context = frame_reader.read_context(index, 0)
    assert context.feature[records.FILENAME].bytes_list.value == [b"3.mp4"]
    assert [frame_reader.read_context(index, record) for record in range(1, 6)] == [None] * 5


def test_verb_labels_can_be_read_and_a_record_may_have_no_name(tmp_path):
    sequence = tf.train.SequenceExample()
    sequence.context.feature[records.VERB].int64_list.value[:] = [3]
    for frame in range(5):
        sequence.feature_lists.feature_list[records.FRAMES].feature.add().bytes_list.value[:] = [
            jpeg(picture(0, frame))
        ]
    features, _ = read_clip(
        open_pattern(write_shards(tmp_path, [sequence.SerializeToString()], shards=1), records.VERB), 0
    )
    assert features["labels"]["label"].numpy().tolist() == [3]
    assert features["id"].numpy() == b"0"


def test_the_first_read_of_a_damaged_record_raises(pattern):
    source = open_pattern(pattern)
    index = record_index.load_index(pattern)
    with open(index.paths[0], "r+b") as file:
        file.seek(index.offset[1] + 12 + int(index.length[1]) - 20)  # a byte of the last frame
        file.write(b"\x00\x01\x02")
    for _ in range(2):
        with pytest.raises(tf.errors.DataLossError):
            source.read(tf.constant(1, tf.int64))
    read_clip(source, 0)


def test_a_record_without_frames_or_of_another_type_cannot_be_read(tmp_path):
    empty = tf.train.SequenceExample().SerializeToString()
    source = open_pattern(write_shards(tmp_path, [example(0), empty, b"not an example"], shards=1))
    read = tf.data.Dataset.range(3).map(source.read).ignore_errors()
    assert [features["clip"] for features in read.as_numpy_iterator()] == [0]


def with_empty_frame(record, frame, has_empty_list):
    sequence = tf.train.SequenceExample.FromString(example(record))
    feature = sequence.feature_lists.feature_list[records.FRAMES].feature[frame]
    feature.Clear()
    if has_empty_list:
        feature.bytes_list.SetInParent()
    return sequence.SerializeToString(deterministic=True)


@pytest.mark.parametrize("frame", [0, 2, 5])
@pytest.mark.parametrize("has_empty_list", [True, False])
@pytest.mark.parametrize("large", [True, False])
def test_an_empty_frame_makes_a_bad_record(tmp_path, monkeypatch, frame, has_empty_list, large):
    pattern = write_shards(tmp_path, [example(0), with_empty_frame(1, frame, has_empty_list), example(2)], shards=1)
    monkeypatch.setattr(record_source, "_LARGE_BYTES", 0 if large else 1 << 20)
    config = configuration.defaults()
    config.data.train, config.data.max_bad_fraction = pattern, 1.0
    config.batch_size, config.mix.group_size, config.model.num_frames = 3, 1, 6
    source, bad_records = sources.open_source(config.data, "train"), BadRecords("train")
    batch = next(pipeline.train_batches(config, source, 0, slice(None), 16, bad_records))
    assert set(batch["record"].tolist()) == {0, 2}
    assert sum(bad_records.counts.values()) == 1


def test_frames_that_extend_past_the_record_are_an_error():
    for data in (b"", b"\x0a", b"\x0a\x04\x0a\x09ab", b"\x0a\x00", b"\x0a\x7f"):
        with pytest.raises(UserError):
            frame_reader._frame_bytes(memoryview(data), 0)


def test_large_local_records_use_the_frame_reader_and_give_the_same_batches(tmp_path, monkeypatch):
    pattern = write_shards(tmp_path, [example(0), b"broken", *(example(record) for record in range(2, 9))], shards=2)
    config = configuration.defaults()
    config.data.train, config.data.max_bad_fraction = pattern, 0.5
    config.batch_size, config.mix.group_size, config.model.num_frames = 4, 1, 4
    results = []
    for large_bytes in (1 << 20, 0):
        monkeypatch.setattr(record_source, "_LARGE_BYTES", large_bytes)
        source, bad_records = sources.open_source(config.data, "train"), BadRecords("train")
        assert (source.decode is encoded_clips.decode_encoded) == (large_bytes > 0)
        batches = itertools.islice(pipeline.train_batches(config, source, 0, slice(None), 16, bad_records), 6)
        results.append((list(batches), bad_records))
    (whole, whole_bad), (partial, partial_bad) = results
    for batch, expected in zip(partial, whole, strict=True):
        jax.tree.map(np.testing.assert_array_equal, batch, expected)
    assert whole_bad.counts == partial_bad.counts == {"record": 1}


def test_a_new_source_reads_the_new_content_of_a_rewritten_shard(pattern):
    read_clip(open_pattern(pattern), 0)
    path = Path(records.find_shards(pattern)[0])
    path.unlink()
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(example(6))
    index = record_index.build_index([str(path)])
    features, _ = read_clip(frame_reader.open_source(index, {"label": records.LABEL}, {"label": NUM_CLASSES}), 0)
    assert features["id"].numpy() == b"6.mp4"
