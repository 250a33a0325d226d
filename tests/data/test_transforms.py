"""Crops, the labels of flipped clips and erasing, against values computed by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_jax.data import transforms

SCALE, RATIO = (0.4, 1.0), (0.75, 4 / 3)


def rng(seed):
    return np.random.default_rng(seed)


def window(seed, height, width, scale=SCALE, ratio=RATIO):
    return transforms.random_resized_crop(height, width, scale, ratio, rng(seed)).tolist()


@settings(max_examples=100)
@given(st.integers(0, 2**40), st.integers(1, 400), st.integers(1, 400))
def test_a_crop_is_inside_the_frame(seed, height, width):
    top, left, crop_height, crop_width = window(seed, height, width)
    assert 0 <= top <= top + crop_height <= height
    assert 0 <= left <= left + crop_width <= width
    assert crop_height >= 1
    assert crop_width >= 1


def test_crops_have_the_configured_areas_and_aspect_ratios():
    crops = np.array([window(seed, 256, 340) for seed in range(300)])
    areas, ratios = crops[:, 2] * crops[:, 3] / (256 * 340), crops[:, 3] / crops[:, 2]
    assert np.all((areas > 0.39) & (areas <= 1))
    assert np.all((ratios > 0.74) & (ratios < 1.35))
    # Log-uniform ratios: half of the crops are wide, within 4 standard deviations. Wide crops fit more often here.
    assert 150 - 35 < np.sum(ratios > 1) < 150 + 70
    assert areas.min() < 0.45
    assert len({tuple(crop) for crop in crops}) > 290


def test_a_crop_of_the_whole_area_is_the_whole_frame():
    assert window(0, 20, 30, scale=(1.0, 1.0), ratio=(1.5, 1.5)) == [0, 0, 20, 30]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # No box with half the area has a ratio up to 4/3. The centre crop is 30 * 4/3 = 40 wide.
        ((30, 400), [0, 180, 30, 40]),
        # The centre crop is 30 / 0.75 = 40 high and starts at (400 - 40) / 2 = 180.
        ((400, 30), [180, 0, 40, 30]),
    ],
)
def test_if_no_box_fits_the_crop_is_the_centre_with_the_nearest_ratio(size, expected):
    assert window(0, *size, scale=(0.5, 1.0)) == expected


def test_on_a_square_frame_a_crop_of_the_whole_area_is_the_whole_frame():
    # A box of the whole area fits only if both sides round to 20. Otherwise the crop is the centre: the whole frame.
    assert all(window(seed, 20, 20, (1.0, 1.0), (0.5, 2.0)) == [0, 0, 20, 20] for seed in range(20))


def test_a_flip_swaps_paired_labels():
    partner = {86: 87, 87: 86, 93: 94, 94: 93, 166: 167, 167: 166, 5: 5}
    for label, expected in partner.items():
        swapped = transforms.swap_labels(np.int32(label), (86, 87, 93, 94, 166, 167))
        assert (int(swapped), swapped.dtype) == (expected, np.int32)


@given(st.sets(st.integers(0, 5)))
def test_a_flip_swaps_the_columns_of_paired_classes(classes):
    labels = np.isin(np.arange(6), list(classes))
    swapped = transforms.swap_labels(labels, (0, 5, 2, 3))
    assert swapped.tolist() == labels[[5, 1, 3, 2, 4, 0]].tolist()


def test_erasing_replaces_the_same_box_in_all_frames():
    for seed in range(20):
        video = np.full((2, 40, 50, 3), 44, np.uint8)
        transforms.random_erase(video, 1.0, rng(seed))
        changed = np.any(video != 44, axis=-1)
        np.testing.assert_array_equal(video[0], video[1])
        rows, columns = np.flatnonzero(changed[0].any(1)), np.flatnonzero(changed[0].any(0))
        box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert 0.01 < box / (40 * 50) < 0.36
        assert changed[0].sum() > 0.95 * box  # noise can equal the original value


def test_the_centre_crop_has_the_nearest_allowed_ratio():
    for height, width in [(17, 400), (400, 17)]:
        _, _, crop_height, crop_width = window(1, height, width)
        assert math.isclose(crop_width / crop_height, 4 / 3 if width > height else 0.75, rel_tol=0.05)
