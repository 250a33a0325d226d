"""Tests of dist_jax.serving.batcher: batch sizes, joined requests, errors, the end."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_jax.errors import UserError
from dist_jax.serving.batcher import Batcher, batch_sizes

SIZES = (2, 4)


class Score:
    """Sums of the pixels. Records the batch sizes; the first batch waits until `gate` is set."""

    def __init__(self):
        self.sizes, self.gate, self.started = [], threading.Event(), threading.Event()

    def __call__(self, clips):
        self.sizes.append(len(clips))
        self.started.set()
        assert self.gate.wait(60)
        if clips.max() == 255:
            raise ValueError("a bad clip")
        return clips.sum(axis=(1, 2, 3, 4), dtype=np.float32)[:, None]


@pytest.fixture
def score():
    return Score()


@pytest.fixture
def batcher(score):
    batcher = Batcher(score, SIZES)
    yield batcher
    score.gate.set()
    batcher.close()


def clips(*values):
    return np.stack([np.full((1, 2, 2, 3), value, np.uint8) for value in values])


def sums(*values):
    return [[12 * value] for value in values]


@pytest.mark.parametrize(
    ("clips_per_video", "max_batch", "sizes"),
    [(1, 8, (1, 2, 4, 8)), (3, 8, (4, 8)), (3, 4, (4,)), (5, 4, (4,)), (1, 1, (1,)), (3, 6, (4, 6))],
)
def test_batch_sizes_are_powers_of_two_up_to_the_largest_batch(clips_per_video, max_batch, sizes):
    assert batch_sizes(clips_per_video, max_batch) == sizes


def test_the_largest_batch_has_a_clip():
    with pytest.raises(UserError, match="--max-batch 0: must be at least 1"):
        batch_sizes(1, 0)


def test_requests_that_wait_share_batches_and_get_their_own_rows(score, batcher):
    first = batcher.submit(clips(1))
    assert score.started.wait(60)
    others = [batcher.submit(clips(2, 3)), batcher.submit(clips(4, 5, 6)), batcher.submit(clips(7))]
    score.gate.set()
    assert first.result(60).tolist() == sums(1)
    assert [future.result(60).tolist() for future in others] == [sums(2, 3), sums(4, 5, 6), sums(7)]
    assert score.sizes == [2, 4, 2]  # one clip; 2 + 2 of 3 clips; the third and one more


def test_an_error_reaches_the_requests_of_its_batch_only(score, batcher):
    first = batcher.submit(clips(1))
    assert score.started.wait(60)
    bad, neighbour, later = batcher.submit(clips(255, 2, 3)), batcher.submit(clips(4)), batcher.submit(clips(5))
    score.gate.set()
    assert first.result(60).tolist() == sums(1)
    for future in (bad, neighbour):
        with pytest.raises(ValueError, match="a bad clip"):
            future.result(60)
    assert later.result(60).tolist() == sums(5)


def test_clips_of_a_cancelled_request_are_not_computed(score, batcher):
    first = batcher.submit(clips(1))
    assert score.started.wait(60)
    cancelled, last = batcher.submit(clips(2, 3, 4, 5)), batcher.submit(clips(6))
    assert cancelled.cancel()
    score.gate.set()
    assert (first.result(60).tolist(), last.result(60).tolist()) == (sums(1), sums(6))
    assert score.sizes == [2, 2]


def test_at_the_end_waiting_requests_are_cancelled_and_new_ones_refused(score):
    batcher = Batcher(score, SIZES)
    first = batcher.submit(clips(1))
    assert score.started.wait(60)
    waiting = batcher.submit(clips(2))
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while not batcher.is_closed:
        pass
    score.gate.set()
    closing.join(60)
    assert first.result(60).tolist() == sums(1)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(clips(3))


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(0, 254), min_size=1, max_size=9), max_size=12))
def test_every_request_of_any_size_gets_its_results(requests):
    score = Score()
    score.gate.set()
    batcher = Batcher(score, SIZES)
    futures = [batcher.submit(clips(*values)) for values in requests]
    assert [future.result(60).tolist() for future in futures] == [sums(*values) for values in requests]
    assert set(score.sizes) <= set(SIZES)
    batcher.close()
