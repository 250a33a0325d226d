"""Decodes JPEG and PNG images, one frame of a clip at a time."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import simplejpeg
import tensorflow as tf

Encoded = bytes | memoryview

MAX_PIXELS = 2**26  # height * width: a larger number is that of a damaged header, which would fill the memory

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # of JPEG and PNG


class ImageError(ValueError):
    """An image that cannot be decoded, or that has another size than the first one of its clip."""


class EncodedFrames:
    """The frames of a clip, cropped to a window, decoded one at a time in the memory of a single frame.

    A caller that finishes with a frame before it takes the next one keeps the pixels in the processor's cache, and no
    array of the decoded clip exists.
    """

    def __init__(self, encoded: Sequence[Encoded], size: tuple[int, int], window: np.ndarray) -> None:
        """Decodes nothing yet.

        Args:
            encoded: m JPEG or PNG images.
            size: their height and width, pixels.
            window: int [4]: top, left, height h, width w.

        Raises:
            ValueError: the window is outside the images.
        """
        top, left, height, width = window.tolist()
        if top + height > size[0] or left + width > size[1]:
            raise ValueError(f"the window {window.tolist()} is outside the image of {size[0]} x {size[1]} pixels")
        self._encoded, self._size = encoded, size
        self._rows, self._columns = slice(top, top + height), slice(left, left + width)

    def __len__(self) -> int:
        return len(self._encoded)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields each frame, uint8 [h, w, 3], valid until the next one. An object that follows itself is decoded once.

        Raises:
            ImageError: an image cannot be decoded or has another size.
        """
        buffer, previous = np.empty((*self._size, 3), np.uint8), None
        for encoded in self._encoded:
            if encoded is not previous:
                decode_image(encoded, buffer)
                previous = encoded
            yield buffer[self._rows, self._columns]


def decode_image(encoded: Encoded, out: np.ndarray) -> None:
    """Decodes a JPEG or PNG to RGB.

    Pixels of a JPEG are those of libjpeg's accurate integer DCT and fancy upsampling, as in Pillow and OpenCV.

    Args:
        encoded: the image.
        out: the memory of the result, uint8 [H, W, 3].

    Raises:
        ImageError: the image cannot be decoded or has another size than `out`.
    """
    try:
        size = simplejpeg.decode_jpeg(encoded, buffer=out).shape[:2]
    except ValueError:  # a PNG, CMYK, an unusual chroma sampling, too large, or damaged
        size = _decode_with_tensorflow(bytes(encoded), out)
    if size != out.shape[:2]:
        raise ImageError(f"an image has {size[0]} x {size[1]} pixels, the first image {out.shape[0]} x {out.shape[1]}")


def image_size(encoded: Encoded) -> tuple[int, int]:
    """Height and width of an encoded image, pixels. Reads a JPEG's header; decodes a PNG.

    Raises:
        ImageError: the image cannot be decoded or has more than MAX_PIXELS.
    """
    try:
        height, width = simplejpeg.decode_jpeg_header(encoded)[:2]
    except ValueError:
        height, width = _size_with_tensorflow(bytes(encoded))
    if height * width > MAX_PIXELS:
        raise ImageError(f"an image has {height} x {width} pixels, more than {MAX_PIXELS} in total")
    return height, width


def _size_with_tensorflow(encoded: bytes) -> tuple[int, int]:
    with _image_errors(encoded):
        return _jpeg_size(encoded) if tf.io.is_jpeg(encoded) else tuple(tf.io.decode_png(encoded).shape[:2])


def _decode_with_tensorflow(encoded: bytes, out: np.ndarray) -> tuple[int, int]:
    """Decodes an image into `out` if it has the same size. Returns the size of the image."""
    with _image_errors(encoded):
        if tf.io.is_jpeg(encoded):
            size = _jpeg_size(encoded)  # before the decoding: a damaged header can have a size of gigabytes
            if size == out.shape[:2]:
                out[:] = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE").numpy()
            return size
        pixels = tf.io.decode_png(encoded, channels=3).numpy()
        if pixels.shape == out.shape:
            out[:] = pixels
        return pixels.shape[:2]


def _jpeg_size(encoded: bytes) -> tuple[int, int]:
    height, width, _ = tf.io.extract_jpeg_shape(encoded).numpy().tolist()
    return height, width


@contextlib.contextmanager
def _image_errors(encoded: bytes) -> Iterator[None]:
    """Errors of TensorFlow's decoders become an ImageError."""
    if not encoded.startswith(_SIGNATURES):
        raise ImageError("not a JPEG or PNG image")
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        raise ImageError(f"the image is damaged ({error.message})") from error
