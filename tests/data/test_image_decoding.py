"""Decoding of JPEG and PNG images, frame by frame."""

import io

import numpy as np
import pytest
import tensorflow as tf
from helpers.small_records import jpeg, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dist_jax.data.image_decoding import EncodedFrames, ImageError, image_size


def decode(encoded, window, size=None):
    """The window of one image: uint8 [h, w, 3]."""
    return next(iter(EncodedFrames([encoded], size or image_size(encoded), np.array(window)))).copy()


def pillow(image, form, mode=None, **options):
    file = io.BytesIO()
    Image.fromarray(image, mode).save(file, form, **options)
    return file.getvalue()


@settings(max_examples=60)
@given(data=st.data())
def test_a_window_of_a_jpeg_has_the_pixels_of_pillow_and_tensorflow(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.float32)
    encoded = jpeg(tf.cast(tf.image.resize(coarse, (50, 77)), tf.uint8), quality=data.draw(st.integers(30, 100)))
    whole = np.asarray(Image.open(io.BytesIO(encoded)))
    accurate = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    np.testing.assert_array_equal(whole, accurate)
    top, left = data.draw(st.integers(0, 49)), data.draw(st.integers(0, 76))
    height, width = data.draw(st.integers(1, 50 - top)), data.draw(st.integers(1, 77 - left))
    decoded = decode(memoryview(encoded), [top, left, height, width])
    np.testing.assert_array_equal(decoded, whole[top : top + height, left : left + width])


def test_png_grayscale_and_cmyk_images_are_decoded_to_rgb():
    image = picture(1, 2)
    png = tf.io.encode_png(image).numpy()
    np.testing.assert_array_equal(decode(png, [2, 3, 10, 12]), image[2:12, 3:15])
    gray = jpeg(image[..., :1])
    cmyk = pillow(np.full((24, 32, 4), 255, np.uint8), "JPEG", "CMYK")
    for encoded in (png, gray, cmyk):
        assert image_size(encoded) == (24, 32)
        assert decode(encoded, [0, 0, 24, 32]).shape == (24, 32, 3)


def test_every_frame_is_decoded_in_the_same_memory_and_repeated_objects_once():
    images = [jpeg(picture(1, frame)) for frame in range(3)]
    frames = EncodedFrames([images[0], images[0], images[2]], (24, 32), np.array([0, 0, 24, 32]))
    seen = [(frame.copy(), frame.ctypes.data) for frame in frames]
    assert len(frames) == 3
    assert len({address for _, address in seen}) == 1
    for (frame, _), number in zip(seen, (0, 0, 2), strict=True):
        np.testing.assert_array_equal(frame, decode(images[number], [0, 0, 24, 32]))


@pytest.mark.parametrize("size", [(48, 64), (12, 16), (32, 24)])
@pytest.mark.parametrize("encode", [jpeg, lambda image: tf.io.encode_png(image).numpy()])
def test_images_of_different_sizes_are_an_error(size, encode):
    images = [encode(picture(1, 0)), encode(picture(1, 1, size=size))]
    frames = iter(EncodedFrames(images, (24, 32), np.array([0, 0, 12, 16])))
    next(frames)
    with pytest.raises(ValueError, match=f"an image has {size[0]} x {size[1]} pixels, the first image 24 x 32"):
        next(frames)


@given(st.data())
def test_a_changed_byte_is_an_error_or_changes_pixels_only(data):
    encoded = bytearray(jpeg(picture(1, 2)))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode(bytes(encoded), [0, 0, 24, 32], (24, 32)).shape == (24, 32, 3)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize("window", [[0, 20, 24, 13], [20, 0, 5, 32]])
def test_a_window_outside_the_image_is_an_error(window):
    with pytest.raises(ValueError, match="is outside the image"):
        decode(jpeg(picture(1, 2)), window)


def test_other_formats_are_an_error_that_says_so():
    encoded = pillow(picture(1, 2), "WEBP")
    with pytest.raises(ValueError, match="not a JPEG or PNG image"):
        image_size(encoded)


@pytest.mark.parametrize("damage", [lambda e: b"", lambda e: b"not an image", lambda e: e[:300], lambda e: e[:-20]])
def test_an_incomplete_image_is_an_error(damage):
    encoded = damage(jpeg(picture(1, 2)))
    with pytest.raises(ValueError, match=r"\w"):
        decode(encoded, [0, 0, 24, 32], (24, 32))


def test_a_header_with_a_size_of_gigabytes_is_an_error():
    encoded = bytearray(jpeg(picture(0, 0)))
    size = encoded.index(b"\xff\xc0") + 5  # in the frame header: marker, length, precision, height, width
    assert encoded[size : size + 4] == bytes([0, 24, 0, 32])
    encoded[size : size + 4] = b"\xff\xdc\xff\xdc"
    with pytest.raises(ImageError, match="65500 x 65500 pixels, more than"):
        image_size(bytes(encoded))
