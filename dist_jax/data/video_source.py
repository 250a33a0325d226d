"""Clips straight from video files and a list: the way in for a small data set, without a preparation step.

PyAV decodes the chosen frames and what they depend on, one video per thread of the pipeline.
"""

import hashlib
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from dist_jax.data import annotations, video
from dist_jax.data.annotations import Clip
from dist_jax.data.files import size_and_mtime
from dist_jax.data.sampling import Features
from dist_jax.data.sources import Source
from dist_jax.errors import UserError


def open_source(location: str, videos: str, names: Sequence[str]) -> Source:
    """The clips that a list file or a folder per class names.

    Args:
        location: the list (see `annotations.read_list`) or the folder.
        videos: folder that a list's paths are relative to; "": the list's own.
        names: class names; a list may also give their numbers.

    Raises:
        UserError: nothing there, a label that is not among the names, a video that is missing.
    """
    clips = read_clips(location, names)
    annotations.check_labels(clips, names)
    base = location if os.path.isdir(location) else videos or os.path.dirname(location)
    paths = [os.path.join(base, clip.path) for clip in clips]
    missing = [path for path in paths if not tf.io.gfile.exists(path)]
    if missing:
        raise UserError(f"{location}: {len(missing)} of {len(paths)} videos are missing, first {missing[0]}")
    states = [(path, *size_and_mtime(path)) for path in paths]
    identity = hashlib.sha256(repr((clips, states)).encode()).hexdigest()[:12]
    numbers = {name: number for number, name in enumerate(names)}

    def probe(record: np.ndarray) -> tuple[np.ndarray, ...]:
        clip = clips[record]
        info = video.probe(paths[record])
        begin, end = _part(info.times, clip)
        if begin == end:
            raise video.VideoError(f"{paths[record]}: no frame from {clip.start_s} s to {clip.end_s} s")
        return tuple(np.int32([end - begin, info.height, info.width, begin]))

    def read(record: tf.Tensor) -> Features:
        found = tf.numpy_function(probe, [record], [tf.int32] * 4)
        num_frames, height, width, begin = (tf.ensure_shape(value, []) for value in found)
        return {
            "num_frames": num_frames,
            "height": height,
            "width": width,
            "begin": begin,
            "clip": record,
            "labels": tf.gather(tf.constant([numbers[clip.label] for clip in clips], tf.int64), record)[None],
            "id": tf.gather(tf.constant([clip.path for clip in clips]), record),
        }

    def decode_chosen(record: np.ndarray, indices: np.ndarray, window: np.ndarray) -> np.ndarray:
        top, left, height, width = window
        frames = video.decode_frames(paths[record], indices)
        return frames[:, top : top + height, left : left + width]

    def decode(features: Features) -> Features:
        arguments = [features["clip"], features["begin"] + features["indices"], features["window"]]
        frames = tf.numpy_function(decode_chosen, arguments, tf.uint8)
        return features | {"video": tf.ensure_shape(frames, [None, None, None, 3])}

    return Source(len(clips), len(names), read, decode, lambda record: f"clip {record} ({paths[record]})", identity)


def read_clips(location: str, names: Sequence[str] | None = None) -> list[Clip]:
    """The clips of a list file, or of a folder that holds one folder per class."""
    if os.path.isdir(location):
        return annotations.read_folders(location)
    return annotations.read_list(location, names, "data.labels")


def _part(times: np.ndarray, clip: Clip) -> tuple[int, int]:
    """First frame of the clip and the one after its last."""
    end = np.inf if clip.end_s is None else clip.end_s
    return int(np.searchsorted(times, clip.start_s or 0.0)), int(np.searchsorted(times, end))
