"""Frame choice against hand-computed cases."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_jax.data import sampling


def features(num_frames, seed=0):
    return {"num_frames": tf.constant(num_frames), "seed": tf.constant([seed, 0], tf.int64)}


def indices(result):
    return result["indices"].numpy().tolist()


def test_one_view_takes_the_middle_of_each_segment_and_halves_go_to_the_even_frame():
    # Middles of four parts of 8 frames: 1, 3, 5, 7. Of 4 frames: 0.5, 1.5, 2.5 and 3.5, clamped to 3 before rounding.
    assert indices(sampling.segment_views(features(8), 4, 1)) == [[1, 3, 5, 7]]
    assert indices(sampling.segment_views(features(4), 4, 1)) == [[0, 2, 2, 3]]


def test_view_v_takes_the_point_v_plus_one_over_V_of_each_segment():
    # Parts of 30 / 2 = 15 frames: thirds at 5, 10, 15 of each; the last would be frame 30, clamped to 29.
    assert indices(sampling.segment_views(features(30), 2, 3)) == [[5, 20], [10, 25], [15, 29]]


def test_fewer_frames_than_segments_repeats_them_in_order():
    # Middles of eight parts of 3 frames: 0.1875, 0.5625, 0.9375, 1.3125, 1.6875, 2.0625, 2.4375, 2.8125 (clamped to 2).
    assert indices(sampling.segment_views(features(3), 8, 1)) == [[0, 1, 1, 1, 2, 2, 2, 2]]
    assert indices(sampling.random_segments(features(1), 4)) == [0, 0, 0, 0]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 400), st.sampled_from([1, 2, 8, 16]), st.integers(0, 2**40))
def test_a_random_draw_stays_in_its_segment(num_frames, frames, seed):
    chosen = np.array(indices(sampling.random_segments(features(num_frames, seed), frames)))
    borders = np.linspace(0, num_frames, frames + 1)
    assert np.all(chosen >= np.minimum(np.floor(borders[:-1]), num_frames - 1))
    assert np.all(chosen <= np.minimum(np.ceil(borders[1:]), num_frames - 1))
    assert np.all(np.diff(chosen) >= 0)


def test_random_draws_are_uniform_in_the_segment():
    draws = np.array([indices(sampling.random_segments(features(40, seed), 2)) for seed in range(400)])
    # Rounded uniform draws in [0, 20) and [20, 40): means 10 and 30, deviation 20 / sqrt(12), 400 draws.
    assert np.all(np.abs(draws.mean(0) - [10, 30]) < 4 * 20 / np.sqrt(12 * 400))
    assert set(range(1, 20)) <= set(draws[:, 0])


def test_random_choice_depends_on_the_seed_alone():
    first, again, other = (indices(sampling.random_segments(features(300, seed), 16)) for seed in (3, 3, 4))
    assert first == again != other


def test_interval_views_start_at_v_over_V_of_the_possible_starts():
    # 100 frames, 4 frames every 5: 80 possible starts; the middle is 40; views of 4 start at 0, 20, 40, 60.
    assert indices(sampling.dense_views(features(100), 4, 5, 1)) == [[40, 45, 50, 55]]
    assert indices(sampling.dense_views(features(100), 4, 5, 4)) == [
        [0, 5, 10, 15],
        [20, 25, 30, 35],
        [40, 45, 50, 55],
        [60, 65, 70, 75],
    ]


@pytest.mark.parametrize("views", [3, 7, 10])
def test_interval_views_are_rounded_down_in_whole_numbers(views):
    for last_start in range(200):  # shares of floating point fall short of whole numbers, 3/7 * 49 of 21
        starts = [view * last_start // views for view in range(views)]
        assert [row[0] for row in indices(sampling.dense_views(features(last_start + 6), 2, 3, views))] == starts


def test_the_kind_of_sampling_is_chosen_by_name():
    video = features(100, seed=3)
    assert indices(sampling.train_frames(video, "segments", 4, 5)) == indices(sampling.random_segments(video, 4))
    assert indices(sampling.train_frames(video, "dense", 4, 5)) == indices(sampling.random_dense(video, 4, 5))
    assert indices(sampling.eval_views(video, "segments", 4, 5, 2)) == indices(sampling.segment_views(video, 4, 2))
    assert indices(sampling.eval_views(video, "dense", 4, 5, 2)) == indices(sampling.dense_views(video, 4, 5, 2))


def test_an_interval_longer_than_the_video_repeats_its_last_frame():
    assert indices(sampling.dense_views(features(6), 4, 3, 1)) == [[0, 3, 5, 5]]
    assert indices(sampling.random_dense(features(6), 4, 3)) == [0, 3, 5, 5]


def test_random_interval_keeps_its_stride_and_its_starts_are_spread():
    chosen = np.array([indices(sampling.random_dense(features(100, seed), 4, 5)) for seed in range(100)])
    assert np.all(np.diff(chosen, axis=1) == 5)
    assert chosen.min() >= 0
    assert chosen.max() < 100
    assert len(set(chosen[:, 0])) > 40


@pytest.mark.parametrize("frames", [16, 32, 64])
@pytest.mark.parametrize("views", [1, 2, 3])
def test_views_equal_the_published_float32_arithmetic(frames, views):
    for num_frames in (1, 7, 64, 97, 300, 301):
        borders = np.linspace(0, num_frames, frames + 1, dtype=np.float32)
        low, high = borders[:-1], borders[1:]
        for view in range(views):
            points = (low + high) / np.float32(2) if views == 1 else low + (high - low) * (view + 1) / np.float32(views)
            expected = np.round(np.clip(points, 0, num_frames - 1)).astype(int).tolist()
            assert indices(sampling.segment_views(features(num_frames), frames, views))[view] == expected
