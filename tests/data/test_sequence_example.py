"""Finding the context and the frames of a serialized SequenceExample."""

import itertools

import pytest
import tensorflow as tf
from helpers.small_records import example
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_jax.data import records, sequence_example
from dist_jax.errors import UserError

# Sizes of one, two, three and four bytes, and their limits.
LARGE_FRAMES = st.sampled_from([0x7B, 0x7C, 0x3FF8, 0x3FFB, 0x4000, 0x1FFFF7, 0x1FFFFC, 0x200000]).map(bytes)


@settings(max_examples=60)
@given(
    frames=st.lists(st.one_of(st.binary(max_size=300), LARGE_FRAMES), max_size=5),
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
    context, positions = sequence_example.parse(data)
    assert len(positions) == (len(frames) + 1 if frames else 0)
    assert [bytes(sequence_example.frame_bytes(data, start)) for start in positions[:-1]] == frames
    parts = [data[start:end] for start, end in itertools.pairwise(positions)]
    assert [bytes(sequence_example.frame_bytes(part, 0)) for part in parts] == frames
    assert context == sequence.context


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_arbitrary_bytes_raise_a_user_error_or_contain_few_frames(data):
    try:
        _, positions = sequence_example.parse(memoryview(data))
    except UserError:
        return
    assert len(positions) <= len(data)


@given(st.data())
def test_an_incomplete_record_is_an_error_or_has_fewer_frames(data):
    serialized = example(1)
    _, positions = sequence_example.parse(memoryview(serialized))
    try:
        _, found = sequence_example.parse(memoryview(serialized[: data.draw(st.integers(0, len(serialized) - 1))]))
    except UserError:
        return
    assert len(found) < len(positions)


def test_a_frame_with_several_values_is_an_error():
    sequence = tf.train.SequenceExample.FromString(example(0))
    sequence.feature_lists.feature_list[records.FRAMES].feature[3].bytes_list.value.append(b"another")
    data = memoryview(sequence.SerializeToString())
    _, positions = sequence_example.parse(data)
    with pytest.raises(UserError, match="has several values"):
        sequence_example.check_frames(data, positions)


def test_frames_that_extend_past_the_record_are_an_error():
    for data in (b"", b"\x0a", b"\x0a\x04\x0a\x09ab", b"\x0a\x00", b"\x0a\x7f"):
        with pytest.raises(UserError):
            sequence_example.frame_bytes(memoryview(data), 0)
