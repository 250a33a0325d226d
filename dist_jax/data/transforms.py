"""Crops, flips, resizing and erasing on the host. Every public function is `features -> features`.

They read and replace `window` (int32 [4]: top, left, height, width in pixels of the stored frames), `flip` (bool []),
`labels` ({label name: int32 [] or bool [K]}) and, after decoding, `video` (uint8 [T, h, w, 3], RGB). Random functions
use `seed` (int64 [2]); all frames of a clip share one draw. `training/augment.py` runs later, on the accelerator:
normalisation, grayscale, colour jitter and mixing.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from dist_jax.data.sampling import Features, fold_in
from dist_jax.video import eval_views
from dist_jax.video.resize import resize_bilinear

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


def random_flip(features: Features, probability: float, label_pairs: Mapping[str, Sequence[int]]) -> Features:
    """Adds `flip` (bool []), true with the given probability. A flip also swaps the classes of each label pair.

    Labels are a class number, int32 [], or the classes of a clip, bool [K].

    Args:
        features: the example.
        probability: 0 to 1.
        label_pairs: class numbers a, b, a, b, ... of the pairs, by label name.
    """
    flip = tf.random.stateless_uniform([], fold_in(features["seed"], "flip")) < probability
    labels = dict(features["labels"])
    for name, pairs in label_pairs.items():
        swap = _swap_columns if labels[name].dtype == tf.bool else _swap_numbers
        labels[name] = tf.where(flip, swap(labels[name], pairs), labels[name])
    return features | {"flip": flip, "labels": labels}


def _swap_numbers(label: tf.Tensor, pairs: Sequence[int]) -> tf.Tensor:
    swapped = label
    for a, b in zip(pairs[::2], pairs[1::2], strict=True):
        swapped = tf.where(label == a, b, tf.where(label == b, a, swapped))
    return swapped


def _swap_columns(classes: tf.Tensor, pairs: Sequence[int]) -> tf.Tensor:
    order = np.arange(classes.shape[0])
    order[[*pairs[::2], *pairs[1::2]]] = [*pairs[1::2], *pairs[::2]]
    return tf.gather(classes, order)


def resize(features: Features, order: tf.Tensor, height: int, width: int) -> Features:
    """Resizes the window of the decoded frames, and reverses the columns if `flip`. See `video.resize`.

    Args:
        features: the example, after `Source.decode` and `random_flip`.
        order: int32 [T], the position in `video` of each frame of the clip.
        height: H, pixels.
        width: W, pixels.

    Returns:
        the example with `video` uint8 [T, H, W, 3].
    """

    def pixels(video: np.ndarray, columns: np.ndarray, order: np.ndarray, flip: np.bool_) -> np.ndarray:
        frames = video[:, :, slice(*columns)]
        return resize_bilinear([frames[number] for number in order], height, width, bool(flip))

    arguments = [features["video"], _columns(features), order, features["flip"]]
    video = tf.numpy_function(pixels, arguments, tf.uint8, stateful=False)
    return features | {"video": tf.ensure_shape(video, [*order.shape, height, width, 3])}


def short_side_crops(features: Features, size: int, num_crops: int) -> Features:
    """Scales the window of `video` to a short side of `size` and crops squares: [crops, m, size, size, 3].

    One crop is the centre. Three crops are the start, the centre and the end of the long side.
    """

    def crops(video: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return eval_views.short_side_crops(video[:, :, slice(*columns)], size, num_crops)

    video = tf.numpy_function(crops, [features["video"], _columns(features)], tf.uint8, stateful=False)
    return features | {"video": tf.ensure_shape(video, [num_crops, None, size, size, 3])}


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


def _columns(features: Features) -> tf.Tensor:
    """First column of the window in `video`, and the column after its last: int32 [2]."""
    return tf.stack([features["left"], features["left"] + features["window"][3]])


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
