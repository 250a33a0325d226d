"""Clips straight from video files and a list: the way in for a small data set, without a preparation step.

PyAV decodes the chosen frames and what they depend on, one video per thread of the pipeline.
"""

import hashlib
import os
from collections.abc import Sequence

import ml_collections
import numpy as np
import tensorflow as tf

from dist_jax.data.sampling import Features
from dist_jax.data.source import Source
from dist_jax.errors import UserError
from dist_jax.files import size_and_mtime
from dist_jax.video import decoding, video_list
from dist_jax.video.video_list import VideoSegment


def open_source(data: ml_collections.ConfigDict, split: str, class_names: Sequence[str]) -> Source:
    """The clips that a list file or a folder per class names.

    Args:
        data: config.data. data.SPLIT is the list (see `video_list.read_list`) or the folder; data.videos is the folder
          that the list's paths are relative to, "" for the list's own.
        split: "train" or "val".
        class_names: K names; a list may also give their numbers.

    Raises:
        UserError: nothing there, a label that is not among the names, a video that is missing.
    """
    location, videos = data[split], data.videos
    clips = read_clips(location, class_names)
    video_list.check_labels(clips, class_names)
    base = location if os.path.isdir(location) else videos or os.path.dirname(location)
    paths = [os.path.join(base, clip.path) for clip in clips]
    missing = [path for path in paths if not tf.io.gfile.exists(path)]
    if missing:
        raise UserError(f"{location}: {len(missing)} of {len(paths)} videos are missing, first {missing[0]}")
    states = [(path, *size_and_mtime(path)) for path in paths]
    identity = hashlib.sha256(repr((clips, states)).encode()).hexdigest()[:12]
    numbers = {name: number for number, name in enumerate(class_names)}

    def probe(record: np.ndarray) -> tuple[np.ndarray, ...]:
        clip = clips[record]
        info = decoding.probe(paths[record])
        begin, end = _part(info.times, clip)
        if begin == end:
            raise decoding.VideoError(f"{paths[record]}: no frame from {clip.start_s} s to {clip.end_s} s")
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
        frames = decoding.decode_frames(paths[record], indices)
        return frames[:, top : top + height, left : left + width]

    def decode(features: Features) -> Features:
        arguments = [features["clip"], features["begin"] + features["indices"], features["window"]]
        frames = tf.numpy_function(decode_chosen, arguments, tf.uint8)
        return features | {"video": tf.ensure_shape(frames, [None, None, None, 3])}

    return Source(
        len(clips), len(class_names), read, decode, lambda record: f"clip {record} ({paths[record]})", identity
    )


def class_names(data: ml_collections.ConfigDict) -> list[str]:
    """labels.txt next to the training list or in the training folder if it exists, else the labels in sorted order."""
    folder = data.train if os.path.isdir(data.train) else os.path.dirname(data.train)
    path = os.path.join(folder, "labels.txt")
    if os.path.exists(path):
        return video_list.read_class_names(path)
    return sorted({clip.label for clip in read_clips(data.train)})


def read_clips(location: str, names: Sequence[str] | None = None) -> list[VideoSegment]:
    """The clips of a list file, or of a folder that holds one folder per class."""
    if os.path.isdir(location):
        return video_list.read_folders(location)
    return video_list.read_list(location, names, "data.class_names_file")


def _part(times: np.ndarray, clip: VideoSegment) -> tuple[int, int]:
    """First frame of the clip and the one after its last."""
    end = np.inf if clip.end_s is None else clip.end_s
    return int(np.searchsorted(times, clip.start_s or 0.0)), int(np.searchsorted(times, end))
