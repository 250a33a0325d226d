"""What is done to the pictures of a clip on the host. Every function is `features -> features`.

They read and change `video`, uint8 [T, h, w, 3] (RGB), `label` (int32 []), `window` (int32 [4]: top, left, height and
width in pixels of the stored frames) and draw from `seed` (int64 [2]). One draw serves all frames of a clip.
Normalisation, grayscale, colour jitter and mixing follow on the accelerator.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from dist_jax.data.sampling import Features, fold_in
from dist_jax.video.eval_views import crop_geometry

_TRIES = 10  # of a random crop, as torchvision has it


def random_resized_crop(features: Features, area: Sequence[float], aspect: Sequence[float]) -> Features:
    """Adds `window`, drawn as torchvision's RandomResizedCrop draws it; reads `height` and `width` (int32 []).

    Args:
        features: the example.
        area: smallest and largest share of the frame's area.
        aspect: smallest and largest width / height, drawn log-uniformly.

    Ten tries; the first whose box fits is taken at a uniform place. If none fits, the centre with the nearest aspect.
    """
    height, width = features["height"], features["width"]
    draws = tf.random.stateless_uniform([4, _TRIES], fold_in(features["seed"], "crop"), dtype=tf.float64)
    areas = tf.cast(height * width, tf.float64) * (area[0] + (area[1] - area[0]) * draws[0])
    low, high = math.log(aspect[0]), math.log(aspect[1])
    aspects = tf.exp(low + (high - low) * draws[1])
    heights = tf.cast(tf.round(tf.sqrt(areas / aspects)), tf.int32)  # [10]
    widths = tf.cast(tf.round(tf.sqrt(areas * aspects)), tf.int32)
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    tops = _below(draws[2], height - heights + 1)
    lefts = _below(draws[3], width - widths + 1)
    first = tf.argmax(fits)  # of equals, the first
    drawn = tf.stack([tops, lefts, heights, widths], axis=1)[first]
    return features | {"window": tf.where(tf.reduce_any(fits), drawn, _central_window(height, width, aspect))}


def whole_frame(features: Features) -> Features:
    """Adds the `window` that leaves nothing out."""
    return features | {"window": tf.stack([0, 0, features["height"], features["width"]])}


def resize(features: Features, height: int, width: int) -> Features:
    """Scales `video` to height x width: bilinear between pixel centres, no antialiasing, rounded to uint8."""
    return features | {"video": tf.ensure_shape(_resized(features["video"], height, width), [None, height, width, 3])}


def short_side_crops(features: Features, size: int, num_crops: int) -> Features:
    """Scales `video`, whole frames [m, h, w, 3], to a short side of `size` and crops squares: [crops, m, size, size, 3].

    One crop is the centre; three are the start, the centre and the end of the long side.
    """

    def geometry(height: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return crop_geometry(int(height), int(width), size, num_crops)

    shape = tf.shape(features["video"])
    scaled, corners = tf.numpy_function(geometry, [shape[1], shape[2]], [tf.int32, tf.int32], stateful=False)
    scaled, corners = tf.ensure_shape(scaled, [2]), tf.ensure_shape(corners, [num_crops, 2])
    video = _resized(features["video"], scaled[0], scaled[1])
    crops = [video[:, top : top + size, left : left + size] for top, left in map(tf.unstack, tf.unstack(corners))]
    return features | {"video": tf.ensure_shape(tf.stack(crops), [num_crops, None, size, size, 3])}


def random_flip(features: Features, probability: float, label_pairs: Sequence[int] = ()) -> Features:
    """Mirrors left and right with the given probability; a mirrored clip of class a becomes b and of b becomes a.

    Args:
        features: the example.
        probability: 0 to 1.
        label_pairs: flat pairs a, b, a, b, ... of class numbers.
    """
    flip = tf.random.stateless_uniform([], fold_in(features["seed"], "flip")) < probability
    label = mirrored = features["label"]
    for one, other in zip(label_pairs[::2], label_pairs[1::2], strict=True):
        mirrored = tf.where(label == one, other, tf.where(label == other, one, mirrored))
    video = tf.cond(flip, lambda: tf.reverse(features["video"], axis=[2]), lambda: features["video"])
    return features | {"video": video, "label": tf.where(flip, mirrored, label)}


def random_erase(features: Features, probability: float) -> Features:
    """With the given probability, one box in all frames becomes noise: 2 to 33 % of the area, aspect 0.3 to 3.3."""
    seed = fold_in(features["seed"], "erase")
    erase = tf.random.stateless_uniform([], fold_in(seed, "whether")) < probability
    shape = tf.shape(features["video"])
    frame = {"height": shape[1], "width": shape[2], "seed": fold_in(seed, "box")}
    top, left, height, width = tf.unstack(random_resized_crop(frame, (0.02, 1 / 3), (0.3, 1 / 0.3))["window"])
    rows, columns = tf.range(shape[1])[:, None], tf.range(shape[2])[None, :]
    box = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width) & erase
    noise = tf.random.stateless_uniform(shape[1:], fold_in(seed, "noise"), 0, 256, dtype=tf.int32)
    return features | {"video": tf.where(box[..., None], tf.cast(noise, tf.uint8), features["video"])}


def decode_images(encoded: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Decodes the window of encoded images (all JPEG or all PNG, bytes [m]) of one size to uint8 [m, h, w, 3].

    The pixels are exactly those of the whole decoded image; a JPEG's others are never computed.

    Raises:
        tf.errors.InvalidArgumentError: an image that cannot be decoded, or ends before the window does.
    """
    width = image_size(encoded[0])[1]
    top, left, rows, columns = tf.unstack(window)
    # Chroma is interpolated, at the edge of what is decoded without its neighbour and in narrow strips not at all: a
    # column more on either side, and at least six, give the whole image's values.
    last = tf.minimum(tf.maximum(left + columns + 1, 6), width)
    first = tf.maximum(tf.minimum(left - 1, last - 6), 0)
    wider = tf.stack([top, first, rows, last - first])

    def each(decode: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        signature = tf.TensorSpec([None, None, 3], tf.uint8)
        return tf.map_fn(decode, encoded, fn_output_signature=signature, parallel_iterations=1)

    # One branch for the whole clip: deciding anew for every image took a seventh more time.
    video = tf.cond(
        tf.io.is_jpeg(encoded[0]),
        lambda: each(lambda image: tf.io.decode_and_crop_jpeg(image, wider, channels=3)),
        lambda: each(
            lambda image: tf.image.crop_to_bounding_box(tf.io.decode_png(image, channels=3), *tf.unstack(wider))
        ),
    )
    return video[:, :, left - first : left - first + columns]


def image_size(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Height and width (int32 []) of an encoded image (JPEG or PNG), from its header."""

    def of_jpeg() -> tf.Tensor:
        return tf.io.extract_jpeg_shape(image)[:2]

    def of_png() -> tf.Tensor:
        return tf.shape(tf.io.decode_png(image, channels=3))[:2]

    size = tf.cond(tf.io.is_jpeg(image), of_jpeg, of_png)
    return size[0], size[1]


def _resized(video: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """uint8 [m, h, w, 3] -> uint8 [m, height, width, 3]: bilinear between pixel centres, no antialiasing, rounded."""

    def of_frame(frame: tf.Tensor) -> tf.Tensor:
        # A bilinear mean of uint8 values is within 0 and 255.
        return tf.cast(tf.image.resize(frame, [height, width]) + 0.5, tf.uint8)

    # Frame by frame: the float32 values of a whole clip are so large that each takes fresh memory from the system.
    signature = tf.TensorSpec([None, None, 3], tf.uint8)
    return tf.map_fn(of_frame, video, fn_output_signature=signature, parallel_iterations=1)


def _below(draw: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    """Uniform integers from 0 to bound - 1 out of uniform draws in [0, 1)."""
    return tf.cast(draw * tf.cast(bound, draw.dtype), tf.int32)


def _central_window(height: tf.Tensor, width: tf.Tensor, aspect: Sequence[float]) -> tf.Tensor:
    ratio = tf.cast(width, tf.float64) / tf.cast(height, tf.float64)
    narrow = tf.cast(tf.round(tf.cast(width, tf.float64) / aspect[0]), tf.int32)
    wide = tf.cast(tf.round(tf.cast(height, tf.float64) * aspect[1]), tf.int32)
    crop_height = tf.where(ratio < aspect[0], narrow, height)
    crop_width = tf.where(ratio > aspect[1], wide, width)
    return tf.stack([(height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width])
