"""Decodes JPEG and PNG images, one frame of a clip at a time."""

from collections.abc import Iterator, Sequence

import numpy as np
import simplejpeg
import tensorflow as tf

Encoded = bytes | memoryview


class EncodedFrames:
    """The frames of a clip, cropped to a window, decoded one at a time in the memory of a single frame.

    A caller that finishes with a frame before it takes the next one keeps the pixels in the processor's cache, and no
    array of the decoded clip exists.
    """

    def __init__(self, encoded: Sequence[Encoded], size: tuple[int, int], window: np.ndarray) -> None:
        """`encoded` are m JPEG or PNG images.

        Args:
            encoded: the images.
            size: their height and width, pixels.
            window: int [4]: top, left, height h, width w.
        """
        self._encoded, self._size, self._window = encoded, size, window

    def __len__(self) -> int:
        return len(self._encoded)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields each frame, uint8 [h, w, 3]. It is valid until the next one. The same object is decoded once in a row.

        Raises:
            ValueError: an image that cannot be decoded or does not contain the window.
        """
        top, left, height, width = self._window.tolist()
        buffer = np.empty((*self._size, 3), np.uint8)
        image, previous = buffer, None
        for encoded in self._encoded:
            if encoded is not previous:
                image, previous = decode_image(encoded, buffer), encoded
            if top + height > image.shape[0] or left + width > image.shape[1]:
                raise ValueError(f"window {self._window.tolist()} is outside the image of {image.shape[:2]} pixels")
            yield image[top : top + height, left : left + width]


def decode_image(encoded: Encoded, buffer: np.ndarray) -> np.ndarray:
    """Decodes a JPEG or PNG to RGB: uint8 [H, W, 3].

    Pixels of a JPEG are those of libjpeg's accurate integer DCT and fancy upsampling, as in Pillow and OpenCV.

    Args:
        encoded: the image.
        buffer: uint8, memory for the result if it is large enough.

    Raises:
        ValueError: the image cannot be decoded.
    """
    try:
        return simplejpeg.decode_jpeg(encoded, buffer=buffer)
    except ValueError:
        return _decode_with_tensorflow(bytes(encoded))


def _decode_with_tensorflow(encoded: bytes) -> np.ndarray:
    """Decodes PNGs, and JPEGs that simplejpeg rejects: CMYK, unusual chroma sampling, larger than the buffer."""
    try:
        if tf.io.is_jpeg(encoded):
            return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE").numpy()
        return tf.io.decode_png(encoded, channels=3).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(error.message) from error


def image_size(encoded: Encoded) -> tuple[int, int]:
    """Height and width of an encoded image, pixels. Reads a JPEG's header; decodes other images.

    Raises:
        ValueError: the image cannot be decoded.
    """
    try:
        return simplejpeg.decode_jpeg_header(encoded)[:2]
    except ValueError:
        return _decode_with_tensorflow(bytes(encoded)).shape[:2]
