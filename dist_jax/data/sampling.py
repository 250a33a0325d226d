"""Which frames of a video make a clip. Every function is `features -> features`.

They read `num_frames` (int32 []) and, where something is drawn, `seed` (int64 [2]); they add `indices`, the chosen
frames' numbers: int32 [T] for training, [V, T] for the V temporal views of an evaluation. A video with fewer frames
than are asked for repeats frames by the same rule.
"""

import zlib

import tensorflow as tf

Features = dict[str, tf.Tensor]


def train_frames(features: Features, kind: str, frames: int, stride: int) -> Features:
    """One random clip, as `kind` (config.data.sampling) says; `stride` is for "interval" alone."""
    if kind == "segments":
        return random_segments(features, frames)
    return random_interval(features, frames, stride)


def eval_views(features: Features, kind: str, frames: int, stride: int, views: int) -> Features:
    """The V = `views` temporal views, as `kind` (config.data.sampling) says; `stride` is for "interval" alone."""
    if kind == "segments":
        return segment_views(features, frames, views)
    return interval_views(features, frames, stride, views)


def random_segments(features: Features, frames: int) -> Features:
    """One uniform draw in each of T = `frames` equal parts, rounded (half to even) and clamped: the recipe's."""
    draws = tf.random.stateless_uniform([frames], fold_in(features["seed"], "frames"), dtype=tf.float64)
    points = (tf.range(frames, dtype=tf.float64) + draws) * tf.cast(features["num_frames"], tf.float64) / frames
    return features | {"indices": _clamped(tf.round(points), features["num_frames"])}  # [T]


def segment_views(features: Features, frames: int, views: int) -> Features:
    """View v of V takes the point (v+1)/V of each of T equal parts (V = 1: the middle), rounded and clamped.

    Halves go to the even frame, as in the published code; its float32 gives the same frames whenever T is a power of
    two, as in all published models.
    """
    numerator, denominator = (
        (tf.range(1, views + 1, dtype=tf.int64), views) if views > 1 else (tf.constant([1], tf.int64), 2)
    )
    parts = tf.range(frames, dtype=tf.int64) * denominator + numerator[:, None]  # [V, T], in units of 1 / denominator
    points = tf.cast(parts * tf.cast(features["num_frames"], tf.int64), tf.float64) / (frames * denominator)
    return features | {"indices": _clamped(tf.round(points), features["num_frames"])}


def random_interval(features: Features, frames: int, stride: int) -> Features:
    """T frames, every `stride`-th, from a uniformly drawn start, rounded down; beyond the end the last one repeats."""
    draw = tf.random.stateless_uniform([], fold_in(features["seed"], "frames"), dtype=tf.float64)
    last_start = _last_start(features, frames, stride)
    start = tf.cast(tf.floor(draw * tf.cast(last_start, tf.float64)), tf.int64)
    return features | {"indices": _clamped(start + tf.range(frames, dtype=tf.int64) * stride, features["num_frames"])}


def interval_views(features: Features, frames: int, stride: int, views: int) -> Features:
    """T frames, every `stride`-th; view v of V starts at the share v/V of the possible starts (V = 1: the middle).

    Rounded down, in whole numbers; beyond the end the last frame repeats.
    """
    last_start = _last_start(features, frames, stride)
    starts = tf.range(views, dtype=tf.int64) * last_start // views if views > 1 else last_start[None] // 2
    points = starts[:, None] + tf.range(frames, dtype=tf.int64) * stride  # [V, T]
    return features | {"indices": _clamped(points, features["num_frames"])}


def fold_in(seed: tf.Tensor, name: str) -> tf.Tensor:
    """The seed (int64 [2]) of what `name` draws in an example, independent of what the others draw."""
    return tf.random.experimental.stateless_fold_in(seed, tf.constant(zlib.crc32(name.encode()), seed.dtype))


def _last_start(features: Features, frames: int, stride: int) -> tf.Tensor:
    """Number of places at which a clip of every `stride`-th frame can start: int64 []."""
    return tf.maximum(tf.cast(features["num_frames"], tf.int64) - frames * stride, 0)


def _clamped(points: tf.Tensor, num_frames: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(tf.cast(points, tf.int32), 0, tf.cast(num_frames, tf.int32) - 1)
