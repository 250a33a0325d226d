"""Temporal views: values computed by hand, and the published arithmetic."""

import numpy as np
import pytest

from dist_jax.video.eval_views import short_side_crops, temporal_views
from dist_jax.video.resize import resize_bilinear


def segment_views(num_frames: int, clip_frames: int, num_views: int) -> list[list[int]]:
    return temporal_views(num_frames, "segments", clip_frames, 1, num_views).tolist()


def dense_views(num_frames: int, clip_frames: int, stride: int, num_views: int) -> list[list[int]]:
    return temporal_views(num_frames, "dense", clip_frames, stride, num_views).tolist()


def test_one_view_takes_the_middle_of_each_segment_rounded_half_to_even():
    # Middles of 4 segments of 8 frames: 1, 3, 5, 7. Of 4 frames: 0.5, 1.5, 2.5, 3.5, rounded to 0, 2, 2, 4 and clamped.
    assert segment_views(8, 4, 1) == [[1, 3, 5, 7]]
    assert segment_views(4, 4, 1) == [[0, 2, 2, 3]]


def test_view_v_takes_the_point_v_plus_1_over_V_of_each_segment():
    # Segments of 30 / 2 = 15 frames, points 5, 10 and 15 of each. The last is frame 30, clamped to 29.
    assert segment_views(30, 2, 3) == [[5, 20], [10, 25], [15, 29]]


def test_dense_views_start_at_v_over_V_of_the_possible_starts():
    # 100 frames, clips of 4 frames with stride 5: 80 possible starts. One view starts at 40, four at 0, 20, 40, 60.
    assert dense_views(100, 4, 5, 1) == [[40, 45, 50, 55]]
    assert dense_views(100, 4, 5, 4) == [
        [0, 5, 10, 15],
        [20, 25, 30, 35],
        [40, 45, 50, 55],
        [60, 65, 70, 75],
    ]


@pytest.mark.parametrize("num_views", [3, 7, 10])
def test_dense_starts_are_rounded_down_in_integer_arithmetic(num_views):
    for last_start in range(200):  # in floating point, 3/7 * 49 is less than 21
        starts = [view * last_start // num_views for view in range(num_views)]
        assert [row[0] for row in dense_views(last_start + 6, 2, 3, num_views)] == starts


@pytest.mark.parametrize("clip_frames", [16, 32, 64])
@pytest.mark.parametrize("num_views", [1, 2, 3])
def test_views_equal_the_published_float32_arithmetic(clip_frames, num_views):
    for num_frames in (1, 7, 64, 97, 300, 301):
        borders = np.linspace(0, num_frames, clip_frames + 1, dtype=np.float32)
        low, high = borders[:-1], borders[1:]
        for view in range(num_views):
            if num_views == 1:
                points = (low + high) / np.float32(2)
            else:
                points = low + (high - low) * (view + 1) / np.float32(num_views)
            expected = np.round(np.clip(points, 0, num_frames - 1)).astype(int).tolist()
            assert segment_views(num_frames, clip_frames, num_views)[view] == expected


def test_short_videos_repeat_frames():
    # Middles of 8 segments of 3 frames: 0.1875, 0.5625, 0.9375, 1.3125, 1.6875, 2.0625, 2.4375, 2.8125 (clamped to 2).
    assert segment_views(3, 8, 1) == [[0, 1, 1, 1, 2, 2, 2, 2]]
    assert dense_views(6, 4, 3, 1) == [[0, 3, 5, 5]]


def test_one_crop_is_the_centre_of_the_short_side_resize():
    image = np.random.default_rng(1).integers(0, 256, (32, 43, 3), dtype=np.uint8)
    crops = short_side_crops([image], 16, 1)
    # 43 / 32 * 16 = 21.5, truncated to 21. The centre starts at (21 - 16) // 2 = 2.
    expected = resize_bilinear([image], 16, 21)[0, :, 2:18]
    assert crops.shape == (1, 1, 16, 16, 3)
    np.testing.assert_array_equal(crops[0, 0], expected)


@pytest.mark.parametrize("is_portrait", [False, True])
def test_three_crops_are_the_ends_and_the_centre_of_the_long_side(is_portrait):
    image = np.random.default_rng(2).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    stored = image.transpose(1, 0, 2) if is_portrait else image
    crops = short_side_crops(stored[None], 16, 3)[:, 0]
    expected_crops = [image[:, 0:16], image[:, 4:20], image[:, 8:24]]
    for crop, expected in zip(crops, expected_crops, strict=True):
        np.testing.assert_array_equal(crop, expected.transpose(1, 0, 2) if is_portrait else expected)
