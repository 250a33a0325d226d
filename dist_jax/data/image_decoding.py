"""Decodes JPEG and PNG images, one frame of a clip at a time."""

from collections.abc import Iterator, Sequence

import numpy as np
import simplejpeg
import tensorflow as tf

Encoded = bytes | memoryview

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # of JPEG and PNG


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
        """Yields each frame, uint8 [h, w, 3]. It is valid until the next one. The same object is decoded once in a row.

        Raises:
            ValueError: an image cannot be decoded or has another size.
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
        ValueError: the image cannot be decoded or has another size than `out`.
    """
    try:
        size = simplejpeg.decode_jpeg(encoded, buffer=out).shape[:2]
    except ValueError:  # a PNG, CMYK, an unusual chroma sampling, too large, or damaged
        size = image_size(encoded)
        if size == out.shape[:2]:
            out[:] = _decode_with_tensorflow(bytes(encoded))
    if size != out.shape[:2]:
        raise ValueError(f"an image has {size[0]} x {size[1]} pixels, the first image {out.shape[0]} x {out.shape[1]}")


def image_size(encoded: Encoded) -> tuple[int, int]:
    """Height and width of an encoded image, pixels. Reads a JPEG's header; decodes a PNG.

    Raises:
        ValueError: the image cannot be decoded.
    """
    try:
        return simplejpeg.decode_jpeg_header(encoded)[:2]
    except ValueError:
        return _size_with_tensorflow(bytes(encoded))


def _size_with_tensorflow(encoded: bytes) -> tuple[int, int]:
    if not encoded.startswith(_SIGNATURES):
        raise ValueError("not a JPEG or PNG image")
    try:
        is_jpeg = bool(tf.io.is_jpeg(encoded))
        height, width, _ = tf.io.extract_jpeg_shape(encoded).numpy() if is_jpeg else tf.io.decode_png(encoded).shape
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"the image is damaged ({error.message})") from error
    return int(height), int(width)


def _decode_with_tensorflow(encoded: bytes) -> np.ndarray:
    try:
        if tf.io.is_jpeg(encoded):
            return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE").numpy()
        return tf.io.decode_png(encoded, channels=3).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"the image is damaged ({error.message})") from error
