"""Resizing against the definition in float64."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dist_jax.video.resize import resize_bilinear

SIDES = st.integers(1, 300)


def exact(image, height, width):
    """Bilinear between pixel centres, with repeated borders: float64 [height, width, 3]."""

    def taps(old, new):
        points = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(points).astype(int)
        return low, np.minimum(low + 1, old - 1), points - low

    top, bottom, y = taps(image.shape[0], height)
    left, right, x = taps(image.shape[1], width)
    rows = image[top] * (1 - y)[:, None, None] + image[bottom] * y[:, None, None]
    return rows[:, left] * (1 - x)[:, None] + rows[:, right] * x[:, None]


def test_resize_is_bilinear_between_pixel_centres():
    frame = np.array([[[0, 0, 0], [100, 100, 100]]], np.uint8)  # one row of two pixels
    # The 4 new pixel centres are -0.25, 0.25, 0.75 and 1.25 in old pixels. Outside the old centres, the border repeats.
    assert resize_bilinear([frame], 1, 4)[0, 0, :, 0].tolist() == [0, 25, 75, 100]


def test_a_smaller_frame_is_not_antialiased():
    frame = np.zeros((9, 9, 3), np.uint8)
    frame[1::3, 1::3] = 200  # the pixels at the new centres
    np.testing.assert_array_equal(resize_bilinear([frame], 3, 3)[0], 200)


def test_resizing_to_the_same_size_is_a_copy():
    frame = np.random.default_rng(0).integers(0, 256, (17, 23, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_bilinear([frame], 17, 23)[0], frame)


@settings(max_examples=150)
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.booleans(), st.integers(0, 2**20))
@example((225, 226), (224, 224), True, 0)
@example((1, 1), (300, 300), True, 0)
@example((300, 300), (1, 1), True, 0)
def test_pixels_differ_from_the_definition_by_at_most_one_level(old_size, new_size, has_full_contrast, seed):
    image = np.random.default_rng(seed).integers(0, 256, (*old_size, 3), dtype=np.uint8)
    if has_full_contrast:
        image = np.where(image < 128, 0, 255).astype(np.uint8)
    resized = resize_bilinear([image], *new_size)[0]
    assert (resized.dtype, resized.shape) == (np.uint8, (*new_size, 3))
    assert np.abs(resized - np.floor(exact(image, *new_size) + 0.5)).max() <= 1


@settings(max_examples=50)
@given(data=st.data())
def test_a_cropped_view_gives_the_pixels_of_a_copy(data):
    video = np.random.default_rng(data.draw(st.integers(0, 100))).integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
    top, left = data.draw(st.integers(0, 29)), data.draw(st.integers(0, 39))
    view = video[:, top : data.draw(st.integers(top + 1, 30)), left : data.draw(st.integers(left + 1, 40))]
    height, width = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 50))
    expected = resize_bilinear(np.ascontiguousarray(view), height, width)
    np.testing.assert_array_equal(resize_bilinear(view, height, width), expected)


@pytest.mark.parametrize("width", [1, 2, 31, 48])
def test_a_flip_reverses_the_columns(width):
    video = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    flipped = resize_bilinear(video, 24, width, flip=True)
    np.testing.assert_array_equal(flipped, resize_bilinear(video, 24, width)[:, :, ::-1])


def test_the_result_is_written_to_the_given_memory():
    video = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    batch = np.zeros((3, 2, 16, 24, 3), np.uint8)
    assert np.shares_memory(resize_bilinear(video, 16, 24, out=batch[1]), batch)
    np.testing.assert_array_equal(batch[1], resize_bilinear(video, 16, 24))
    assert not batch[::2].any()


@pytest.mark.parametrize(("shape", "dtype"), [((8, 8, 3), np.float32), ((8, 8, 4), np.uint8), ((8, 8), np.uint8)])
def test_other_types_and_numbers_of_channels_are_an_error(shape, dtype):
    with pytest.raises(ValueError, match=r"expected uint8 \[h, w, 3\]"):
        resize_bilinear([np.zeros(shape, dtype)], 4, 4)
