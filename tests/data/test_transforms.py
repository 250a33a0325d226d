"""Crops, resizing, flips and erasing against values computed by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_jax.data import transforms
from dist_jax.video.resize import resize_bilinear

SCALE, RATIO = (0.4, 1.0), (0.75, 4 / 3)


def seeded(seed, **features):
    return {"seed": tf.constant([seed, 1], tf.int64)} | tf.nest.map_structure(tf.constant, features)


def window(seed, height, width, scale=SCALE, ratio=RATIO):
    features = transforms.random_resized_crop(seeded(seed, height=height, width=width), scale, ratio)
    return features["window"].numpy().tolist()


@settings(deadline=None, max_examples=100)
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


def cropped(video, first, width):
    """Features after decoding: the window has `width` columns of the frames uint8 [m, h, w, 3], from `first` on."""
    window = tf.constant([0, 40, video.shape[1], width])
    return {"video": tf.constant(video), "window": window, "left": tf.constant(first), "flip": tf.constant(False)}


def uncropped(video):
    return cropped(video, 0, video.shape[2])


def test_resize_takes_the_window_in_the_given_order():
    video = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    resized = transforms.resize(cropped(video, 5, 12), tf.constant([2, 0, 0, 1]), 24, 16)["video"]
    assert resized.shape == (4, 24, 16, 3)
    assert resized.dtype == tf.uint8
    np.testing.assert_array_equal(resized, resize_bilinear(video[[2, 0, 0, 1], :, 5:17], 24, 16))


def test_resize_reverses_the_columns_of_a_flipped_clip():
    video = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    plain = transforms.resize(uncropped(video), tf.range(2), 16, 16)["video"].numpy()
    flipped = transforms.resize(uncropped(video) | {"flip": tf.constant(True)}, tf.range(2), 16, 16)["video"]
    np.testing.assert_array_equal(flipped, plain[:, :, ::-1])


def test_one_crop_is_the_centre_of_the_short_side_resize():
    image = np.random.default_rng(1).integers(0, 256, (32, 43, 3), dtype=np.uint8)
    crops = transforms.short_side_crops(uncropped(image[None]), 16, 1)["video"].numpy()
    # 43 / 32 * 16 = 21.5, truncated to 21. The centre starts at (21 - 16) // 2 = 2.
    expected = resize_bilinear([image], 16, 21)[0, :, 2:18]
    assert crops.shape == (1, 1, 16, 16, 3)
    np.testing.assert_array_equal(crops[0, 0], expected)


@pytest.mark.parametrize("is_portrait", [False, True])
def test_three_crops_are_the_ends_and_the_centre_of_the_long_side(is_portrait):
    image = np.random.default_rng(2).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    stored = image.transpose(1, 0, 2) if is_portrait else image
    crops = transforms.short_side_crops(uncropped(stored[None]), 16, 3)["video"].numpy()[:, 0]
    expected_crops = [image[:, 0:16], image[:, 4:20], image[:, 8:24]]
    for crop, expected in zip(crops, expected_crops, strict=True):
        np.testing.assert_array_equal(crop, expected.transpose(1, 0, 2) if is_portrait else expected)


def flip(seed, label, probability=0.5, pairs=(86, 87, 93, 94, 166, 167)):
    result = transforms.random_flip(seeded(seed, labels={"label": label}), probability, {"label": pairs})
    return bool(result["flip"]), int(result["labels"]["label"])


def test_a_flip_swaps_paired_labels():
    partner = {86: 87, 87: 86, 93: 94, 94: 93, 166: 167, 167: 166, 5: 5}
    for label, other in partner.items():
        for seed in range(8):
            is_flipped, result = flip(seed, label)
            assert result == (other if is_flipped else label)


@given(st.integers(0, 30), st.sets(st.integers(0, 5)))
def test_a_flip_swaps_the_columns_of_paired_classes(seed, classes):
    labels = np.isin(np.arange(6), list(classes))
    result = transforms.random_flip(seeded(seed, labels={"label": labels}), 0.5, {"label": (0, 5, 2, 3)})
    order = [5, 1, 3, 2, 4, 0] if result["flip"] else range(6)
    assert result["labels"]["label"].numpy().tolist() == labels[[*order]].tolist()


def test_flips_have_the_given_probability():
    assert 100 - 40 < sum(flip(seed, 0)[0] for seed in range(200)) < 100 + 40
    assert not any(flip(seed, 0, 0.0)[0] for seed in range(20))
    assert all(flip(seed, 0, 1.0)[0] for seed in range(20))


def test_erasing_replaces_the_same_box_in_all_frames():
    video = np.full((2, 40, 50, 3), 44, np.uint8)
    for seed in range(20):
        erased = transforms.random_erase(seeded(seed, video=video), 1.0)["video"].numpy()
        changed = np.any(erased != video, axis=-1)
        np.testing.assert_array_equal(erased[0], erased[1])
        rows, columns = np.flatnonzero(changed[0].any(1)), np.flatnonzero(changed[0].any(0))
        box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert 0.01 < box / (40 * 50) < 0.36
        assert changed[0].sum() > 0.95 * box  # noise can equal the original value
    np.testing.assert_array_equal(transforms.random_erase(seeded(0, video=video), 0.0)["video"], video)


def test_the_centre_crop_has_the_nearest_allowed_ratio():
    for height, width in [(17, 400), (400, 17)]:
        _, _, crop_height, crop_width = window(1, height, width)
        assert math.isclose(crop_width / crop_height, 4 / 3 if width > height else 0.75, rel_tol=0.05)
