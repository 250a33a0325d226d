"""Decodes video files to RGB frames: by time (`iter_frames`) or by number (`decode_frames`); `probe` reads the size.

PyAV decodes with one thread per video, because callers run one video per process or thread. Times are seconds from the
start of the video stream. Frames are rotated upright if the file has a rotation tag. Sample aspect ratios are ignored.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from dist_jax.video.container import DecodedFrame, FrameTimes, VideoError, decode_from, read_frame_times

Item = TypeVar("Item")

_TIME_TOLERANCE_S = 0.51e-3  # Matroska and WebM round times to a millisecond


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Size and frame times of a video."""

    num_frames: int
    width: int  # pixels, upright
    height: int  # pixels, upright
    fps: float  # average
    times: np.ndarray  # float64 [num_frames], seconds, increasing

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return float(self.times[-1] - self.times[0]) + 1 / self.fps


def probe(path: str) -> VideoInfo:
    """Reads the size and frame times of a video. Decodes only the first frame, except for AVI and raw streams.

    Raises:
        VideoError: the file cannot be read or has no frames.
    """
    frame_times = read_frame_times(path)
    first = next(decode_from(path, None), None)
    if first is None or not frame_times.times:
        raise _no_frames(path)
    width, height = first.frame.width, first.frame.height
    if _quarter_turns(first.frame) % 2:
        width, height = height, width
    return VideoInfo(len(frame_times.times), width, height, frame_times.fps, np.asarray(frame_times.times))


def iter_frames(
    path: str,
    start_s: float | None = None,
    end_s: float | None = None,
    fps: float | None = None,
    short_side: int | None = None,
) -> Iterator[tuple[float, np.ndarray]]:
    """Decodes the segment [start_s, end_s) of a video, from the key frame before `start_s`.

    Args:
        path: a local path, a URL, or a path on a file system of TensorFlow (gs://).
        start_s: seconds; None: the start of the video.
        end_s: seconds; None: the end of the video.
        fps: frames per second: frame k is the last one at or before start_s + k / fps. None or 0: every frame.
        short_side: pixels; larger frames are scaled down to it (bicubic, the long side rounded to an even number).
          Smaller frames keep their size. None or 0: no scaling.

    Yields:
        Time in seconds, and the RGB frame, uint8 [H, W, 3].

    Raises:
        VideoError: the file cannot be read, is damaged, or has no frame in the segment.
    """
    if start_s is not None and end_s is not None and end_s <= start_s:
        raise VideoError(f"{path}: end {end_s:g} s must be after start {start_s:g} s")
    decoded = decode_from(path, start_s)
    first = next(decoded, None)
    if first is None:
        raise _no_frames(path)
    to_rgb, last = _RgbConverter(short_side), first
    frames = ((last := item).as_tuple() for item in itertools.chain([first], decoded))
    is_empty = True
    for time, frame in choose_by_time(frames, start_s or 0.0, end_s, fps, _TIME_TOLERANCE_S):
        is_empty = False
        yield time, to_rgb(frame)
    if is_empty:
        end = "the end" if end_s is None else f"{end_s:g} s"
        raise VideoError(f"{path}: no frame from {start_s or 0:g} s to {end}; the last frame is at {last.time:.3f} s")


def decode_frames(path: str, indices: Sequence[int], short_side: int | None = None) -> np.ndarray:
    """Decodes the frames `indices` and the frames that they depend on.

    Args:
        path: see `iter_frames`.
        indices: T frame numbers from 0, in any order; repeated numbers are allowed.
        short_side: see `iter_frames`.

    Returns:
        uint8 [T, H, W, 3], RGB, in the order of `indices`.

    Raises:
        VideoError: the file cannot be read, or a frame number is out of range.
    """
    frame_times = read_frame_times(path)
    num_frames = len(frame_times.times)
    if not num_frames:
        raise _no_frames(path)
    if len(indices) == 0 or min(indices) < 0 or max(indices) >= num_frames:
        raise VideoError(
            f"{path}: invalid frame numbers {list(indices)}; expected one or more from 0 to {num_frames - 1}"
        )
    distinct = sorted({int(index) for index in indices})
    to_rgb = _RgbConverter(short_side)
    frames = {number: to_rgb(frame) for number, frame in _decode_numbers(path, frame_times, distinct)}
    missing = [number for number in distinct if number not in frames]
    if missing:
        raise VideoError(f"{path}: frame {missing[0]} of {num_frames} cannot be decoded")
    return np.stack([frames[int(index)] for index in indices])


def choose_by_time(
    frames: Iterable[tuple[float, float, Item]],
    start_s: float,
    end_s: float | None,
    fps: float | None,
    tolerance: float = 0.0,
) -> Iterator[tuple[float, Item]]:
    """Chooses the frames of [start_s, end_s): all of them, or `fps` per second.

    Args:
        frames: (time, duration, frame), times in seconds, increasing.
        start_s: seconds.
        end_s: seconds; None: the end of the last frame.
        fps: frame k is the last one at or before start_s + k / fps, or the first frame if that one is later. None or 0:
          every frame whose time is in the segment.
        tolerance: maximum error of a frame time, in seconds.

    Yields:
        (time, frame).
    """
    end_s = np.inf if end_s is None else end_s
    if not fps:
        before_end = itertools.takewhile(lambda frame: frame[0] < end_s - tolerance, frames)
        yield from ((time, item) for time, _, item in before_end if time >= start_s - tolerance)
        return
    ticks = (start_s + k / fps for k in itertools.count())
    tick, previous, previous_end = next(ticks), None, start_s
    for time, duration, item in frames:
        while previous is not None and tick < min(time, end_s) - tolerance:
            yield tick, previous[0]
            tick = next(ticks)
        previous, previous_end = (item,), time + duration  # a tuple: an item may be None
        if tick >= end_s - tolerance:
            return
    while previous is not None and tick < min(previous_end, end_s) - tolerance:
        yield tick, previous[0]
        tick = next(ticks)


def reduced_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Width and height in pixels after scaling down to `short_side`. The long side is rounded to an even number."""
    if not short_side or min(width, height) <= short_side:
        return width, height

    def scaled(side: int) -> int:
        return short_side if side == min(width, height) else 2 * round(side * short_side / min(width, height) / 2)

    return scaled(width), scaled(height)


class _RgbConverter:
    """Converts frames to upright RGB arrays, scaled down to a short side. Reuses the scaler's tables.

    All frames get the size of the first one. `ffmpeg` does the same if a video changes its size.
    """

    def __init__(self, short_side: int | None) -> None:
        self._short_side = short_side
        self._size: tuple[int, int] | None = None
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        self._size = self._size or reduced_size(frame.width, frame.height, self._short_side)
        width, height = self._size
        # threads=1: for frames of this size, dispatch to a thread pool takes longer than scaling.
        rgb = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1
        )
        return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), _quarter_turns(frame)))


def _no_frames(path: str) -> VideoError:
    return VideoError(f"{path}: no frame can be decoded; remove or replace the file")


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Number of counterclockwise 90-degree rotations that make the frame upright."""
    return round(frame.rotation / 90) % 4


def _decode_numbers(path: str, frame_times: FrameTimes, numbers: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decodes the frames of the increasing `numbers`, one pass per group of `_group_by_keyframes`."""
    number_of_time = {time: number for number, time in enumerate(frame_times.times)}
    for times in _group_by_keyframes([frame_times.times[number] for number in numbers], frame_times.keyframe_times):
        start = times[0] if frame_times.keyframe_times else None
        yield from ((number_of_time[item.time], item.frame) for item in _decode_times(path, start, times))


def _decode_times(path: str, start_s: float | None, times: list[float]) -> Iterator[DecodedFrame]:
    """Decodes from `start_s` and yields the frames at exactly the increasing `times`."""
    chosen = set(times)
    for item in decode_from(path, start_s):
        if item.time in chosen:
            yield item
        if item.time >= times[-1]:
            break


def _group_by_keyframes(times: list[float], keyframe_times: list[float]) -> list[list[float]]:
    """Splits increasing times where a new seek skips at least one whole group of pictures."""
    groups: list[list[float]] = []
    last_keyframe = -1
    for time in times:
        keyframe = bisect.bisect_right(keyframe_times, time)
        if not groups or keyframe > last_keyframe + 1:
            groups.append([])
        groups[-1].append(time)
        last_keyframe = keyframe
    return groups
