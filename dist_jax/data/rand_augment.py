"""RandAugment (arXiv 1909.13719) on whole clips, with torchvision's operations and ranges.

Magnitude m (0 to 10) is m / 10 of each operation's range. All frames share the random operations and signs. As in
torchvision, rotation is about the centre and shear about the top left corner.
Shapes: video uint8 [T, H, W, 3]. Geometric operations fill pixels from outside the frame with black.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

Operation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # video, signed strength (float32 [], -1 to 1) -> video

_SHEAR = 0.3
_ROTATION = math.radians(30)
_TRANSLATION = 150 / 331  # of the frame's side
_ENHANCEMENT = 0.9
_TOP_LEFT = (-0.5, -0.5)  # corner of the frame, x and y in pixels from the centre of the first pixel


def rand_augment(video: np.ndarray, num_ops: int, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """Applies `num_ops` uniformly drawn operations, with repetition. `magnitude` is 0 to 10."""
    result = tf.constant(video)
    for draw in rng.random((num_ops, 2)):
        operation = OPERATIONS[int(draw[0] * len(OPERATIONS))]
        strength = magnitude / 10 if draw[1] < 0.5 else -magnitude / 10
        result = _compiled(operation)(result, tf.constant(strength, tf.float32))
    return result.numpy()


@functools.cache
def _compiled(operation: Operation) -> Operation:
    return tf.function(operation, autograph=False)


def identity(video: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Returns `video` unchanged."""
    del strength
    return video


def shear_x(video: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Shifts rows by up to 0.3 of their distance from the top."""
    return _affine(video, [[1.0, _SHEAR * strength], [0.0, 1.0]], centre=_TOP_LEFT)


def shear_y(video: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Shifts columns by up to 0.3 of their distance from the left."""
    return _affine(video, [[1.0, 0.0], [_SHEAR * strength, 1.0]], centre=_TOP_LEFT)


def translate_x(video: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Shifts by up to 150/331 of the width."""
    width = tf.cast(tf.shape(video)[2], tf.float32)
    return _affine(video, [[1.0, 0.0], [0.0, 1.0]], x=strength * _TRANSLATION * width)


def translate_y(video: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Shifts by up to 150/331 of the height."""
    height = tf.cast(tf.shape(video)[1], tf.float32)
    return _affine(video, [[1.0, 0.0], [0.0, 1.0]], y=strength * _TRANSLATION * height)


def rotate(video: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Rotates by up to 30 degrees about the centre."""
    angle = strength * _ROTATION
    return _affine(video, [[tf.cos(angle), -tf.sin(angle)], [tf.sin(angle), tf.cos(angle)]])


def brightness(video: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Blends with black (strength -1: 10 % of the pixel value, +1: 190 %)."""
    return _blend(tf.zeros_like(video, tf.float32), video, strength)


def color(video: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Blends with the grayscale clip (strength -1: less colour, +1: more)."""
    return _blend(_gray(video), video, strength)


def contrast(video: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Blends with each frame's mean gray (strength -1: less contrast, +1: more)."""
    return _blend(tf.reduce_mean(_gray(video), axis=[1, 2, 3], keepdims=True), video, strength)


def sharpness(video: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Blends with a 3 x 3 smoothing filter (strength -1: smoother, +1: sharper). The border of a frame stays."""
    kernel = tf.constant([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]]) / 13
    pixels = tf.cast(video, tf.float32)
    smooth = tf.nn.depthwise_conv2d(pixels, tf.tile(kernel[:, :, None, None], [1, 1, 3, 1]), [1] * 4, "VALID")
    interior = tf.pad(tf.ones_like(smooth), [[0, 0], [1, 1], [1, 1], [0, 0]])
    smooth = tf.pad(smooth, [[0, 0], [1, 1], [1, 1], [0, 0]])
    return _blend(tf.where(interior > 0, smooth, pixels), video, strength)


def posterize(video: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Keeps the 8 (strength 0) to 4 (strength 1) highest bits."""
    num_dropped = tf.cast(tf.round(4 * tf.abs(strength)), tf.uint8)
    return tf.bitwise.left_shift(tf.bitwise.right_shift(video, num_dropped), num_dropped)


def solarize(video: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Inverts values at or above a threshold of 255 (strength 0) to 0 (strength 1)."""
    threshold = 255 * (1 - tf.abs(strength))
    return tf.where(tf.cast(video, tf.float32) >= threshold, 255 - video, video)


def auto_contrast(video: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Stretches every channel of a frame to 0..255. A constant channel stays."""
    del strength
    pixels = tf.cast(video, tf.float32)
    low = tf.reduce_min(pixels, axis=[1, 2], keepdims=True)
    high = tf.reduce_max(pixels, axis=[1, 2], keepdims=True)
    return tf.where(high > low, _uint8((pixels - low) * 255 / tf.maximum(high - low, 1)), video)


def equalize(video: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Equalizes the histogram of every channel of a frame, as PIL and torchvision do."""
    del strength

    def equalize_channel(values: tf.Tensor) -> tf.Tensor:
        histogram = tf.math.bincount(tf.reshape(tf.cast(values, tf.int32), [-1]), minlength=256)
        last = tf.boolean_mask(histogram, histogram > 0)[-1]
        step = (tf.reduce_sum(histogram) - last) // 255
        table = tf.clip_by_value((tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(step, 1), 0, 255)
        return tf.where(step > 0, tf.cast(tf.gather(table, tf.cast(values, tf.int32)), tf.uint8), values)

    planes = tf.reshape(tf.transpose(tf.cast(video, tf.int32), [0, 3, 1, 2]), [-1, *video.shape[1:3]])  # [T * 3, H, W]
    planes = tf.cast(tf.map_fn(equalize_channel, tf.cast(planes, tf.uint8)), tf.int32)
    equalized = tf.transpose(tf.reshape(planes, [-1, 3, *video.shape[1:3]]), [0, 2, 3, 1])
    return tf.cast(equalized, tf.uint8)


OPERATIONS: tuple[Operation, ...] = (
    identity,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
    rotate,
    brightness,
    color,
    contrast,
    sharpness,
    posterize,
    solarize,
    auto_contrast,
    equalize,
)


def _affine(
    video: tf.Tensor,
    matrix: list[list[tf.Tensor | float]],
    x: tf.Tensor | float = 0.0,
    y: tf.Tensor | float = 0.0,
    centre: tuple[float, float] | None = None,
) -> tf.Tensor:
    """Nearest-neighbour affine transform: output pixel p is input pixel centre + matrix @ (p - centre) - (x, y).

    `centre` is (x, y) in pixels from the centre of the first pixel; None: the centre of the frame.
    """
    shape = tf.shape(video)
    centre_x, centre_y = centre or (tf.cast(shape[2] - 1, tf.float32) / 2, tf.cast(shape[1] - 1, tf.float32) / 2)
    (a, b), (c, d) = matrix
    shift_x = centre_x - a * centre_x - b * centre_y - x
    shift_y = centre_y - c * centre_x - d * centre_y - y
    transform = tf.stack([tf.cast(value, tf.float32) for value in (a, b, shift_x, c, d, shift_y, 0.0, 0.0)])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=video,
        transforms=transform[None],
        output_shape=shape[1:3],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )


def _gray(video: tf.Tensor) -> tf.Tensor:
    luma = tf.constant([0.2989, 0.587, 0.114])
    return tf.reduce_sum(tf.cast(video, tf.float32) * luma, axis=-1, keepdims=True)


def _blend(other: tf.Tensor, video: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    factor = 1 + _ENHANCEMENT * strength
    return _uint8(other + factor * (tf.cast(video, tf.float32) - other))


def _uint8(pixels: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(tf.clip_by_value(pixels, 0, 255)), tf.uint8)
