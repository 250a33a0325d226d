"""Random choice of frames: values computed by hand, bounds and distributions."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_jax.data import sampling


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_video_of_one_frame_repeats_it():
    assert sampling.random_segments(1, 4, rng()).tolist() == [0, 0, 0, 0]


def test_segments_and_dense_sampling_are_selected_by_name():
    segments, dense = (sampling.train_frames(100, name, 4, 5, rng(3)) for name in ("segments", "dense"))
    np.testing.assert_array_equal(segments, sampling.random_segments(100, 4, rng(3)))
    np.testing.assert_array_equal(dense, sampling.random_dense(100, 4, 5, rng(3)))


def test_a_dense_clip_longer_than_the_video_repeats_its_last_frame():
    assert sampling.random_dense(6, 4, 3, rng()).tolist() == [0, 3, 5, 5]


def test_dense_clips_keep_their_stride_and_start_at_many_frames():
    chosen = np.array([sampling.random_dense(100, 4, 5, rng(seed)) for seed in range(100)])
    assert np.all(np.diff(chosen, axis=1) == 5)
    assert chosen.min() >= 0
    assert chosen.max() < 100
    assert len(set(chosen[:, 0])) > 40


@settings(max_examples=50)
@given(st.integers(1, 400), st.sampled_from([1, 2, 8, 16]), st.integers(0, 2**40))
def test_every_frame_is_in_its_segment(num_frames, clip_frames, seed):
    chosen = sampling.random_segments(num_frames, clip_frames, rng(seed))
    borders = np.linspace(0, num_frames, clip_frames + 1)
    assert np.all(chosen >= np.minimum(np.floor(borders[:-1]), num_frames - 1))
    assert np.all(chosen <= np.minimum(np.ceil(borders[1:]), num_frames - 1))
    assert np.all(np.diff(chosen) >= 0)


def test_frames_are_uniform_within_their_segment():
    draws = np.array([sampling.random_segments(40, 2, rng(seed)) for seed in range(400)])
    # Rounded uniform draws in [0, 20) and [20, 40): means 10 and 30, standard deviation 20 / sqrt(12), 400 draws.
    assert np.all(np.abs(draws.mean(0) - [10, 30]) < 4 * 20 / np.sqrt(12 * 400))
    assert set(range(1, 20)) <= set(draws[:, 0])
