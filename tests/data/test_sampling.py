"""Random choice of frames: values computed by hand, bounds and distributions."""

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_jax.data import sampling
from dist_jax.video.eval_views import temporal_views


def features(num_frames, seed=0):
    return {"num_frames": tf.constant(num_frames), "seed": tf.constant([seed, 0], tf.int64)}


def indices(result):
    return result["indices"].numpy().tolist()


def test_a_video_of_one_frame_repeats_it():
    assert indices(sampling.random_segments(features(1), 4)) == [0, 0, 0, 0]


def test_segments_and_dense_sampling_are_selected_by_name():
    video = features(100, seed=3)
    assert indices(sampling.train_frames(video, "segments", 4, 5)) == indices(sampling.random_segments(video, 4))
    assert indices(sampling.train_frames(video, "dense", 4, 5)) == indices(sampling.random_dense(video, 4, 5))
    for name in ("segments", "dense"):
        assert indices(sampling.eval_views(video, name, 4, 5, 2)) == temporal_views(100, name, 4, 5, 2).tolist()


def test_a_dense_clip_longer_than_the_video_repeats_its_last_frame():
    assert indices(sampling.random_dense(features(6), 4, 3)) == [0, 3, 5, 5]


def test_dense_clips_keep_their_stride_and_start_at_many_frames():
    chosen = np.array([indices(sampling.random_dense(features(100, seed), 4, 5)) for seed in range(100)])
    assert np.all(np.diff(chosen, axis=1) == 5)
    assert chosen.min() >= 0
    assert chosen.max() < 100
    assert len(set(chosen[:, 0])) > 40


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 400), st.sampled_from([1, 2, 8, 16]), st.integers(0, 2**40))
def test_every_frame_is_in_its_segment(num_frames, clip_frames, seed):
    chosen = np.array(indices(sampling.random_segments(features(num_frames, seed), clip_frames)))
    borders = np.linspace(0, num_frames, clip_frames + 1)
    assert np.all(chosen >= np.minimum(np.floor(borders[:-1]), num_frames - 1))
    assert np.all(chosen <= np.minimum(np.ceil(borders[1:]), num_frames - 1))
    assert np.all(np.diff(chosen) >= 0)


def test_frames_are_uniform_within_their_segment():
    draws = np.array([indices(sampling.random_segments(features(40, seed), 2)) for seed in range(400)])
    # Rounded uniform draws in [0, 20) and [20, 40): means 10 and 30, standard deviation 20 / sqrt(12), 400 draws.
    assert np.all(np.abs(draws.mean(0) - [10, 30]) < 4 * 20 / np.sqrt(12 * 400))
    assert set(range(1, 20)) <= set(draws[:, 0])


def test_the_frames_depend_only_on_the_seed():
    first, again, other = (indices(sampling.random_segments(features(300, seed), 16)) for seed in (3, 3, 4))
    assert first == again != other
