"""Crops, resizing, flips and erasing on the host. Every public function is `features -> features`.

They read and replace `video` (uint8 [T, h, w, 3], RGB), `labels` ({label name: int32 []}) and `window` (int32 [4]: top,
left, height, width in pixels of the stored frames). Random functions use `seed` (int64 [2]); all frames of a clip share
one draw. `training/augment.py` runs later, on the accelerator: normalisation, grayscale, colour jitter and mixing.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from dist_jax.data.sampling import Features, fold_in
from dist_jax.video.eval_views import crop_geometry

_CROP_ATTEMPTS = 10  # as in torchvision


def random_resized_crop(features: Features, scale: Sequence[float], ratio: Sequence[float]) -> Features:
    """Adds a random `window`, as torchvision's RandomResizedCrop does. Reads `height` and `width` (int32 []).

    Ten attempts; the first box that fits is placed uniformly. If none fits, the window is the centre of the frame, with
    the aspect ratio clamped to `ratio`.

    Args:
        features: the example.
        scale: smallest and largest share of the frame's area.
        ratio: smallest and largest width / height; the draw is log-uniform.
    """
    height, width = features["height"], features["width"]
    draws = tf.random.stateless_uniform([4, _CROP_ATTEMPTS], fold_in(features["seed"], "crop"), dtype=tf.float64)
    areas = tf.cast(height * width, tf.float64) * (scale[0] + (scale[1] - scale[0]) * draws[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    ratios = tf.exp(low + (high - low) * draws[1])
    heights = tf.cast(tf.round(tf.sqrt(areas / ratios)), tf.int32)  # [10]
    widths = tf.cast(tf.round(tf.sqrt(areas * ratios)), tf.int32)
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    tops = _random_integers(draws[2], height - heights + 1)
    lefts = _random_integers(draws[3], width - widths + 1)
    first = tf.argmax(fits)  # argmax returns the first of equal values
    window = tf.stack([tops, lefts, heights, widths], axis=1)[first]
    return features | {"window": tf.where(tf.reduce_any(fits), window, _centre_window(height, width, ratio))}


def whole_frame(features: Features) -> Features:
    """Adds the `window` of the whole frame. Reads `height` and `width` (int32 [])."""
    return features | {"window": tf.stack([0, 0, features["height"], features["width"]])}


def resize(features: Features, height: int, width: int) -> Features:
    """Resizes `video` to height x width: bilinear between pixel centres, no antialiasing, rounded to uint8."""
    return features | {"video": tf.ensure_shape(_resized(features["video"], height, width), [None, height, width, 3])}


def short_side_crops(features: Features, size: int, num_crops: int) -> Features:
    """Scales `video` [m, h, w, 3] to a short side of `size` and crops squares: [crops, m, size, size, 3].

    One crop is the centre. Three crops are the start, the centre and the end of the long side.
    """

    def geometry(height: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return crop_geometry(int(height), int(width), size, num_crops)

    shape = tf.shape(features["video"])
    scaled, corners = tf.numpy_function(geometry, [shape[1], shape[2]], [tf.int32, tf.int32], stateful=False)
    scaled, corners = tf.ensure_shape(scaled, [2]), tf.ensure_shape(corners, [num_crops, 2])
    video = _resized(features["video"], scaled[0], scaled[1])
    crops = [video[:, top : top + size, left : left + size] for top, left in map(tf.unstack, tf.unstack(corners))]
    return features | {"video": tf.ensure_shape(tf.stack(crops), [num_crops, None, size, size, 3])}


def random_flip(features: Features, probability: float, label_pairs: Mapping[str, Sequence[int]]) -> Features:
    """Flips `video` horizontally with the given probability. A flip also swaps the classes of each label pair.

    Args:
        features: the example.
        probability: 0 to 1.
        label_pairs: class numbers a, b, a, b, ... of the pairs, by label name.
    """
    flip = tf.random.stateless_uniform([], fold_in(features["seed"], "flip")) < probability
    labels = dict(features["labels"])
    for name, pairs in label_pairs.items():
        label = flipped_label = labels[name]
        for a, b in zip(pairs[::2], pairs[1::2], strict=True):
            flipped_label = tf.where(label == a, b, tf.where(label == b, a, flipped_label))
        labels[name] = tf.where(flip, flipped_label, label)
    video = tf.cond(flip, lambda: tf.reverse(features["video"], axis=[2]), lambda: features["video"])
    return features | {"video": video, "labels": labels}


def random_erase(features: Features, probability: float) -> Features:
    """With the given probability, replaces one box in all frames by noise: 2 to 33 % of the area, ratio 0.3 to 3.3."""
    seed = fold_in(features["seed"], "erase")
    erase = tf.random.stateless_uniform([], fold_in(seed, "whether")) < probability
    shape = tf.shape(features["video"])
    frame = {"height": shape[1], "width": shape[2], "seed": fold_in(seed, "box")}
    top, left, height, width = tf.unstack(random_resized_crop(frame, (0.02, 1 / 3), (0.3, 1 / 0.3))["window"])
    rows, columns = tf.range(shape[1])[:, None], tf.range(shape[2])[None, :]
    box = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width) & erase
    noise = tf.random.stateless_uniform(shape[1:], fold_in(seed, "noise"), 0, 256, dtype=tf.int32)
    return features | {"video": tf.where(box[..., None], tf.cast(noise, tf.uint8), features["video"])}


def _resized(video: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """uint8 [m, h, w, 3] -> uint8 [m, height, width, 3]: bilinear between pixel centres, no antialiasing, rounded."""

    def resize_frame(frame: tf.Tensor) -> tf.Tensor:
        # A bilinear mean of uint8 values is between 0 and 255.
        return tf.cast(tf.image.resize(frame, [height, width]) + 0.5, tf.uint8)

    # Frame by frame: the float32 values of a whole clip are a large allocation, which is slow for every clip.
    signature = tf.TensorSpec([None, None, 3], tf.uint8)
    return tf.map_fn(resize_frame, video, fn_output_signature=signature, parallel_iterations=1)


def _random_integers(draw: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    """Maps uniform draws in [0, 1) to uniform integers from 0 to bound - 1."""
    return tf.cast(draw * tf.cast(bound, draw.dtype), tf.int32)


def _centre_window(height: tf.Tensor, width: tf.Tensor, ratio: Sequence[float]) -> tf.Tensor:
    """The largest centred window with width / height between ratio[0] and ratio[1]."""
    frame_ratio = tf.cast(width, tf.float64) / tf.cast(height, tf.float64)
    max_height = tf.cast(tf.round(tf.cast(width, tf.float64) / ratio[0]), tf.int32)
    max_width = tf.cast(tf.round(tf.cast(height, tf.float64) * ratio[1]), tf.int32)
    crop_height = tf.where(frame_ratio < ratio[0], max_height, height)
    crop_width = tf.where(frame_ratio > ratio[1], max_width, width)
    return tf.stack([(height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width])
