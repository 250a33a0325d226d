"""Which frames of a video make a clip. Every function is `features -> features`.

They read `num_frames` (int32 []) and, where something is drawn, `seed` (int64 [2]); they add `indices`, the chosen
frames' numbers: int32 [T] for training, [V, T] for the V temporal views of an evaluation. A video with fewer frames
than are asked for repeats frames by the same rule.
"""

import zlib

import numpy as np
import tensorflow as tf

from dist_jax.video.eval_views import temporal_views

Features = dict[str, tf.Tensor]


def train_frames(features: Features, kind: str, frames: int, stride: int) -> Features:
    """One random clip, as `kind` (config.data.sampling) says; `stride` is for "dense" alone."""
    if kind == "segments":
        return random_segments(features, frames)
    return random_dense(features, frames, stride)


def eval_views(features: Features, sampling: str, frames: int, stride: int, num_views: int) -> Features:
    """The V temporal views of `video.eval_views.temporal_views`."""

    def views(num_frames: np.ndarray) -> np.ndarray:
        return temporal_views(int(num_frames), sampling, frames, stride, num_views)

    indices = tf.numpy_function(views, [features["num_frames"]], tf.int32, stateful=False)
    return features | {"indices": tf.ensure_shape(indices, [num_views, frames])}


def random_segments(features: Features, frames: int) -> Features:
    """One uniform draw in each of T = `frames` equal parts, rounded (half to even) and clamped: the recipe's."""
    draws = tf.random.stateless_uniform([frames], fold_in(features["seed"], "frames"), dtype=tf.float64)
    points = (tf.range(frames, dtype=tf.float64) + draws) * tf.cast(features["num_frames"], tf.float64) / frames
    return features | {"indices": _clamped(tf.round(points), features["num_frames"])}  # [T]


def random_dense(features: Features, frames: int, stride: int) -> Features:
    """T frames, every `stride`-th, from a uniformly drawn start, rounded down; beyond the end the last one repeats."""
    draw = tf.random.stateless_uniform([], fold_in(features["seed"], "frames"), dtype=tf.float64)
    last_start = _last_start(features, frames, stride)
    start = tf.cast(tf.floor(draw * tf.cast(last_start, tf.float64)), tf.int64)
    return features | {"indices": _clamped(start + tf.range(frames, dtype=tf.int64) * stride, features["num_frames"])}


def fold_in(seed: tf.Tensor, name: str) -> tf.Tensor:
    """The seed (int64 [2]) of what `name` draws in an example, independent of what the others draw."""
    return tf.random.experimental.stateless_fold_in(seed, tf.constant(zlib.crc32(name.encode()), seed.dtype))


def _last_start(features: Features, frames: int, stride: int) -> tf.Tensor:
    """Number of places at which a clip of every `stride`-th frame can start: int64 []."""
    return tf.maximum(tf.cast(features["num_frames"], tf.int64) - frames * stride, 0)


def _clamped(points: tf.Tensor, num_frames: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(tf.cast(points, tf.int32), 0, tf.cast(num_frames, tf.int32) - 1)
