"""Choice of a clip's frames. Every function is `features -> features`.

The functions read `num_frames` (int32 []: the video's frames) and, if they are random, `seed` (int64 [2]). They add
`indices`, the frame numbers: int32 [T] for training, [V, T] for V temporal views in evaluation. `clip_frames` is T. A
video with too few frames repeats frames by the same rule.
"""

import zlib

import numpy as np
import tensorflow as tf

from dist_jax.video.eval_views import temporal_views

Features = dict[str, tf.Tensor]


def train_frames(features: Features, sampling: str, clip_frames: int, stride: int) -> Features:
    """One random clip. `sampling` is "segments" or "dense" (config.data.sampling); `stride` is used by "dense" only."""
    if sampling == "segments":
        return random_segments(features, clip_frames)
    return random_dense(features, clip_frames, stride)


def eval_views(features: Features, sampling: str, clip_frames: int, stride: int, num_views: int) -> Features:
    """The V temporal views of `video.eval_views.temporal_views`."""

    def views(num_frames: np.ndarray) -> np.ndarray:
        return temporal_views(int(num_frames), sampling, clip_frames, stride, num_views)

    indices = tf.numpy_function(views, [features["num_frames"]], tf.int32, stateful=False)
    return features | {"indices": tf.ensure_shape(indices, [num_views, clip_frames])}


def random_segments(features: Features, clip_frames: int) -> Features:
    """One uniform draw in each of T equal segments, rounded half to even and clamped (published recipe)."""
    draws = tf.random.stateless_uniform([clip_frames], fold_in(features["seed"], "frames"), dtype=tf.float64)
    segments = tf.range(clip_frames, dtype=tf.float64)
    points = (segments + draws) * tf.cast(features["num_frames"], tf.float64) / clip_frames
    return features | {"indices": _clamp(tf.round(points), features["num_frames"])}  # [T]


def random_dense(features: Features, clip_frames: int, stride: int) -> Features:
    """T frames at distance `stride` from a uniform random start, rounded down. The last frame repeats after the end."""
    draw = tf.random.stateless_uniform([], fold_in(features["seed"], "frames"), dtype=tf.float64)
    num_starts = tf.maximum(tf.cast(features["num_frames"], tf.int64) - clip_frames * stride, 0)
    start = tf.cast(tf.floor(draw * tf.cast(num_starts, tf.float64)), tf.int64)
    points = start + tf.range(clip_frames, dtype=tf.int64) * stride
    return features | {"indices": _clamp(points, features["num_frames"])}  # [T]


def fold_in(seed: tf.Tensor, name: str) -> tf.Tensor:
    """The seed (int64 [2]) of one random draw of an example. Draws of different names are independent."""
    return tf.random.experimental.stateless_fold_in(seed, tf.constant(zlib.crc32(name.encode()), seed.dtype))


def _clamp(points: tf.Tensor, num_frames: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(tf.cast(points, tf.int32), 0, tf.cast(num_frames, tf.int32) - 1)
