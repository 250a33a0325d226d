"""Clips from video files and a list of labels (data.source=videos), without a preparation step.

PyAV decodes only the chosen frames and the frames they depend on, one video per thread of the pipeline.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence

import ml_collections
import numpy as np

from dist_jax.data.source import Source, StoredClip, single_label
from dist_jax.errors import UserError, warn_once
from dist_jax.files import exists, join, size_and_mtime
from dist_jax.video import class_folders, decoding, opening, video_list
from dist_jax.video.opening import VideoError
from dist_jax.video.video_list import VideoSegment

_SETTING = "data.source=videos"


def open_source(data: ml_collections.ConfigDict, split: str, class_names: Mapping[str, Sequence[str]]) -> Source:
    """Opens the clips of a list file, or of a folder with one subfolder per class.

    Args:
        data: config.data. data.train or data.val is the list (see `video_list.read_list`) or the folder. The paths of a
          list are relative to data.videos; "" is the folder of the list.
        split: "train" or "val".
        class_names: K names, by label name. A list may also contain class numbers.

    Raises:
        UserError: two labels, no clips, an unknown label, a missing video.
    """
    label = single_label(data, _SETTING)
    names = class_names[label]
    segments = _read_segments(data[split], names)
    video_list.check_labels(segments, names)
    paths = _video_paths(data[split], data.videos, segments)
    sizes = [size_and_mtime(path)[0] for path in paths]  # no folder and no times: copied videos are the same data
    identity = hashlib.sha256(repr((segments, sizes, data.square_pixels)).encode()).hexdigest()[:12]
    numbers = {name: number for number, name in enumerate(names)}

    def labels(record: int) -> dict[str, np.ndarray]:
        return {label: np.array([numbers[name] for name in segments[record].labels], np.int64)}

    def read(record: int) -> StoredClip:
        segment, path = segments[record], paths[record]
        info = decoding.probe(path, data.square_pixels)
        start, end = _frame_range(info.times, segment)
        if start == end:
            raise VideoError(f"{path}: no frame between {segment.start_s} s and {segment.end_s} s")

        def frames(indices: np.ndarray, window: np.ndarray) -> _ChosenFrames:
            return _ChosenFrames(path, (start + indices).tolist(), window, data.square_pixels)

        name = segment.path.encode("utf-8", "surrogateescape")
        return StoredClip(end - start, info.height, info.width, labels(record), name, frames)

    def location(record: int) -> str:
        return f"clip {record} ({paths[record]})"

    def seconds(record: int) -> float | None:
        return _seconds(paths[record], segments[record])

    return Source(len(segments), {label: len(names)}, read, location, identity, seconds, labels)


class _ChosenFrames:
    """Frames of a video, cropped to a window. They are decoded during the iteration, so that few are in memory."""

    def __init__(self, path: str, numbers: Sequence[int], window: np.ndarray, square_pixels: bool) -> None:
        self._path, self._numbers, self._square_pixels = path, numbers, square_pixels
        top, left, height, width = window.tolist()
        self._rows, self._columns = slice(top, top + height), slice(left, left + width)

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields uint8 [h, w, 3]. Numbers that do not increase are allowed; their frames stay in memory until used."""
        decoded = decoding.iter_numbers(self._path, sorted(set(self._numbers)), square_pixels=self._square_pixels)
        last_use = {number: position for position, number in enumerate(self._numbers)}
        frames: dict[int, np.ndarray] = {}
        for position, number in enumerate(self._numbers):
            while number not in frames:
                decoded_number, frame = next(decoded)
                frames[decoded_number] = frame
            yield frames[number][self._rows, self._columns]
            if last_use[number] == position:
                del frames[number]


def class_names(data: ml_collections.ConfigDict) -> dict[str, list[str]]:
    """Returns labels.txt next to the training list or in the training folder, or else the sorted labels of the list."""
    label = single_label(data, _SETTING)
    folder = data.train if os.path.isdir(data.train) else os.path.dirname(data.train)
    path = os.path.join(folder, "labels.txt")
    if os.path.exists(path):
        return {label: video_list.read_class_names(path)}
    return {label: sorted({name for segment in _read_segments(data.train) for name in segment.labels})}


def _read_segments(list_or_folder: str, class_names: Sequence[str] | None = None) -> list[VideoSegment]:
    if os.path.isdir(list_or_folder):
        folders = class_folders.read_folders(list_or_folder)
        if folders.skipped:
            warn_once(f"{list_or_folder}: skipped files: {class_folders.count_reasons(folders.skipped)}")
        return folders.segments
    return video_list.read_list(list_or_folder, class_names, "data.class_names_file")


def _video_paths(list_or_folder: str, list_root: str, segments: Sequence[VideoSegment]) -> list[str]:
    """Path of the video of each segment. Raises UserError if one is missing."""
    is_folder = os.path.isdir(list_or_folder)
    root = list_or_folder if is_folder else list_root or os.path.dirname(list_or_folder)
    paths = [join(root, segment.path) for segment in segments]
    missing = [path for path in paths if not exists(path)]
    if missing:
        raise UserError(f"{list_or_folder}: {len(missing)} of {len(paths)} videos are missing, first {missing[0]}")
    return paths


def _seconds(path: str, segment: VideoSegment) -> float | None:
    """Length of a clip from its times or from the header of its file; None: unknown."""
    end_s = segment.end_s
    if end_s is None:
        try:
            end_s = opening.duration_s(path)
        except VideoError:  # reading the clip reports it
            return None
    return None if end_s is None else end_s - (segment.start_s or 0.0)


def _frame_range(times: np.ndarray, segment: VideoSegment) -> tuple[int, int]:
    """Index of the segment's first frame, and of the frame after its last. `times` are the frame times in seconds."""
    start_s = -np.inf if segment.start_s is None else segment.start_s
    end_s = np.inf if segment.end_s is None else segment.end_s
    start, end = np.searchsorted(times, np.array([start_s, end_s]) - decoding.TIME_TOLERANCE_S)
    return int(start), int(end)
