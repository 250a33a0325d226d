"""RandAugment's operations against values computed by hand."""

import numpy as np
import pytest
import tensorflow as tf

from dist_jax.data import rand_augment as ra


def random_clip(seed=0, size=(9, 11)):
    return np.random.default_rng(seed).integers(0, 256, (2, *size, 3), dtype=np.uint8)


def apply(operation, strength, video=None):
    video = random_clip() if video is None else video
    return operation(tf.constant(video), tf.constant(strength, tf.float32)).numpy()


@pytest.mark.parametrize("operation", ra.OPERATIONS, ids=lambda o: o.__name__)
@pytest.mark.parametrize("strength", [-1.0, 0.5])
def test_every_operation_keeps_shape_and_dtype_and_treats_all_frames_equally(operation, strength):
    video = np.repeat(random_clip()[:1], 2, axis=0)
    result = apply(operation, strength, video)
    assert result.shape == video.shape
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result[0], result[1])


SCALED = [o for o in ra.OPERATIONS if o not in (ra.auto_contrast, ra.equalize, ra.solarize)]


@pytest.mark.parametrize("operation", SCALED, ids=lambda o: o.__name__)
def test_an_operation_of_strength_0_changes_nothing(operation):
    np.testing.assert_array_equal(apply(operation, 0.0), random_clip())


def test_translation_shifts_and_fills_with_black():
    video = random_clip(size=(6, 331))
    shifted = apply(ra.translate_x, 1.0, video)  # by 150 columns to the right
    np.testing.assert_array_equal(shifted[:, :, 150:], video[:, :, :181])
    assert not shifted[:, :, :150].any()
    video = random_clip(size=(331, 6))
    np.testing.assert_array_equal(apply(ra.translate_y, -1.0, video)[:, :181], video[:, 150:])


def test_rotation_is_about_the_centre():
    video = random_clip(size=(9, 9))
    assert np.array_equal(apply(ra.rotate, 1.0, video)[:, 4, 4], video[:, 4, 4])
    quarter = apply(lambda v, s: ra.rotate(v, s * 3), 1.0, video)  # 3 * 30 degrees
    assert np.array_equal(quarter[0], np.rot90(video[0])) or np.array_equal(quarter[0], np.rot90(video[0], -1))


def test_shear_shifts_rows_in_proportion_to_their_distance_from_the_top():
    video = random_clip(size=(21, 21))
    right, left = apply(ra.shear_x, 1.0, video), apply(ra.shear_x, -1.0, video)
    for row in range(21):
        columns = round(0.3 * (row + 0.5))  # distance of the row's centre from the frame's corner
        np.testing.assert_array_equal(right[:, row, : 21 - columns], video[:, row, columns:])
        np.testing.assert_array_equal(left[:, row, columns:], video[:, row, : 21 - columns])
        assert not right[:, row, 21 - columns :].any()
    np.testing.assert_array_equal(apply(ra.shear_y, 1.0, video)[:, :15, 19], video[:, 6:, 19])


def test_brightness_color_and_contrast_blend_with_black_gray_and_mean_gray():
    video = random_clip().astype(np.float64)
    np.testing.assert_allclose(apply(ra.brightness, -1.0), 0.1 * video, atol=0.51)
    np.testing.assert_allclose(apply(ra.brightness, 1.0), np.minimum(1.9 * video, 255), atol=0.51)
    gray = video @ [0.2989, 0.587, 0.114]
    np.testing.assert_allclose(apply(ra.color, -1.0), 0.9 * gray[..., None] + 0.1 * video, atol=0.52)
    mean = gray.mean((1, 2))[:, None, None, None]
    np.testing.assert_allclose(apply(ra.contrast, -1.0), 0.9 * mean + 0.1 * video, atol=0.52)


def test_negative_sharpness_smooths_the_interior_and_keeps_the_border():
    video = np.zeros((1, 5, 5, 3), np.uint8)
    video[0, 2, 2] = 130
    smooth = apply(ra.sharpness, -1.0, video)[0, ..., 0]
    assert smooth[2, 2] == round(0.9 * 50 + 0.1 * 130)
    assert smooth[1, 1] == 9  # 0.9 * 130 / 13
    assert not smooth[0].any()


def test_posterize_solarize_and_auto_contrast_match_hand_computed_values():
    video = np.array([[[[0, 100, 255], [17, 128, 60]]]], np.uint8)
    np.testing.assert_array_equal(apply(ra.posterize, 1.0, video), video & 0b11110000)
    np.testing.assert_array_equal(apply(ra.solarize, 0.5, video), np.where(video >= 127.5, 255 - video, video))
    np.testing.assert_array_equal(apply(ra.solarize, 0.0, video), np.where(video >= 255, 0, video))
    stretched = apply(ra.auto_contrast, 0.0, np.array([[[[10, 7, 0], [30, 7, 5], [50, 7, 10]]]], np.uint8))
    np.testing.assert_array_equal(stretched, [[[[0, 7, 0], [128, 7, 128], [255, 7, 255]]]])


def test_equalize_spreads_the_histogram():
    values = np.repeat(np.arange(100, 120, dtype=np.uint8), 128)  # 2560 values, 20 levels
    video = np.stack([values.reshape(1, 40, 64)] * 3, axis=-1)
    result = apply(ra.equalize, 0.0, video)
    # step = (2560 - 128) // 255 = 9; level i becomes (128 i + 4) // 9, at most 255.
    expected = np.minimum((128 * np.arange(20) + 4) // 9, 255)
    np.testing.assert_array_equal(np.unique(result), np.unique(expected))
    np.testing.assert_array_equal(result[0, ..., 0].ravel(), expected[values - 100])
    flat = np.full((1, 4, 4, 3), 9, np.uint8)
    np.testing.assert_array_equal(apply(ra.equalize, 0.0, flat), flat)


def test_the_operations_depend_only_on_the_seed_and_vary():
    def draw(seed):
        return ra.rand_augment(random_clip(), 2, 9.0, np.random.default_rng(seed))

    results = {draw(seed).tobytes() for seed in range(30)}
    assert len(results) > 20
    np.testing.assert_array_equal(draw(5), draw(5))
