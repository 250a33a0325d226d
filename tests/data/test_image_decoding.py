"""Decoding of JPEG and PNG images, in full and in part."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.small_records import jpeg, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_jax.data import image_decoding


def decode(encoded, window):
    features = image_decoding.decode_images(tf.constant([encoded]), tf.constant(window))
    return features["video"][0, :, features["left"] :][:, : window[3]].numpy()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_decoded_window_equals_the_window_of_the_decoded_image(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.float32)
    image = tf.cast(tf.image.resize(coarse, (50, 77)), tf.uint8)
    encoded = jpeg(image, quality=data.draw(st.integers(30, 100)))
    whole = tf.io.decode_jpeg(encoded, channels=3).numpy()
    top, left = data.draw(st.integers(0, 49)), data.draw(st.integers(0, 76))
    height, width = data.draw(st.integers(1, 50 - top)), data.draw(st.integers(1, 77 - left))
    decoded = decode(encoded, [top, left, height, width])
    np.testing.assert_array_equal(decoded, whole[top : top + height, left : left + width])


def test_png_and_grayscale_jpeg_are_decoded_to_rgb():
    image = picture(1, 2)
    png = tf.io.encode_png(image).numpy()
    np.testing.assert_array_equal(decode(png, [2, 3, 10, 12]), image[2:12, 3:15])
    gray = jpeg(image[..., :1])
    assert decode(gray, [0, 0, *image.shape[:2]]).shape == image.shape
    assert [int(side) for side in image_decoding.image_size(tf.constant(png))] == [24, 32]
    assert [int(side) for side in image_decoding.image_size(tf.constant(gray))] == [24, 32]


@pytest.mark.parametrize("window", [[0, 20, 24, 13], [20, 0, 5, 32]])
def test_a_window_outside_the_image_is_an_error(window):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(jpeg(picture(1, 2)), window)
