"""Decodes video files to RGB frames: by time (`iter_frames`) or by number (`decode_frames`, `iter_numbers`).

PyAV decodes with one thread per video, because callers run one video per process or thread. Times are seconds from the
start of the file, as `ffmpeg -ss` and players count (see `frame_clock`). Frame k is frame k of sequential decoding, and
`probe` counts the same frames.

Frames are rotated and mirrored as the file's display matrix says. Non-square pixels become square: the width is scaled
by the sample aspect ratio (as players do; ffmpeg, decord and DMVR's own generator keep the stored pixels).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from dist_jax.video.container import DecodedFrame, FrameTimes, decode_from, read_frame_times
from dist_jax.video.opening import VideoError
from dist_jax.video.rgb_converter import RgbConverter, reduced_size, unrotated_size

__all__ = [
    "TIME_TOLERANCE_S",
    "SegmentFrame",
    "VideoError",
    "VideoInfo",
    "choose_by_time",
    "decode_frames",
    "iter_frames",
    "iter_numbers",
    "iter_segment",
    "probe",
    "reduced_size",
]

Item = TypeVar("Item")

TIME_TOLERANCE_S = 0.51e-3  # Matroska and WebM round times to a millisecond


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Size and frame times of a video."""

    num_frames: int
    width: int  # pixels, upright
    height: int  # pixels, upright
    fps: float  # average
    times: np.ndarray  # float64 [num_frames], seconds from the start of the file, not decreasing; read-only

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return float(self.times[-1] - self.times[0]) + 1 / self.fps


@dataclasses.dataclass(frozen=True)
class SegmentFrame:
    """A frame of a segment."""

    time: float  # seconds from the start of the file
    duration: float  # seconds
    pixels: np.ndarray  # RGB, uint8 [H, W, 3]


def probe(path: str, square_pixels: bool = True, on_frame: Callable[[float], None] | None = None) -> VideoInfo:
    """Reads the size and frame times of a video.

    Decodes only the first frame of good MP4 and Matroska files. In all others, the frames are counted by decoding.

    Args:
        path: see `iter_frames`.
        square_pixels: see `iter_frames`.
        on_frame: called with the time (seconds) of every frame that is decoded to count it. It may raise an error.

    Raises:
        VideoError: the file cannot be read, ends early, or has no frames.
    """
    frame_times = read_frame_times(path, on_frame)
    geometry = frame_times.geometry
    if geometry is None or not len(frame_times.times):
        next(decode_from(path, None), None)  # raises the decoder's error
        raise _no_frames(path)
    width, height = unrotated_size(path, geometry, square_pixels)
    if geometry.orientation.transpose:
        width, height = height, width
    return VideoInfo(len(frame_times.times), width, height, frame_times.fps, frame_times.times)


def iter_frames(
    path: str,
    start_s: float | None = None,
    end_s: float | None = None,
    fps: float | None = None,
    short_side: int | None = None,
    square_pixels: bool = True,
) -> Iterator[tuple[float, np.ndarray]]:
    """Decodes the segment [start_s, end_s) of a video, from the key frame before `start_s`.

    Args:
        path: a local path, a URL, or a path on a file system of TensorFlow (gs://).
        start_s: seconds from the start of the file; None: the first frame.
        end_s: seconds from the start of the file; None: the end of the video.
        fps: frames per second: frame k is the last one at or before start_s + k / fps. None or 0: every frame.
        short_side: pixels; larger frames are scaled down to it (bicubic, the long side rounded to an even number).
          Smaller frames keep their size. None or 0: no scaling.
        square_pixels: scale the width of frames with non-square pixels. False: keep the stored pixels.

    Yields:
        Time in seconds, and the RGB frame, uint8 [H, W, 3].

    Raises:
        VideoError: the file cannot be read, is damaged, ends early, or has no frame in the segment.
    """
    for frame in iter_segment(path, start_s, end_s, fps, short_side, square_pixels):
        yield frame.time, frame.pixels


def iter_segment(
    path: str,
    start_s: float | None = None,
    end_s: float | None = None,
    fps: float | None = None,
    short_side: int | None = None,
    square_pixels: bool = True,
) -> Iterator[SegmentFrame]:
    """Like `iter_frames`, and yields the duration of each frame: 1 / fps, or else the duration in the file."""
    if start_s is not None and end_s is not None and end_s <= start_s:
        raise VideoError(f"{path}: end {end_s:g} s must be after start {start_s:g} s")
    decoded = decode_from(path, start_s)
    first = next(decoded, None)
    if first is None:
        raise _no_frames(path)
    to_rgb = RgbConverter(path, first.geometry, short_side, square_pixels)
    begin_s = first.time if start_s is None else start_s
    last_time = first.time

    def frames() -> Iterator[tuple[float, float, DecodedFrame]]:
        nonlocal last_time
        for item in itertools.chain([first], decoded):
            last_time = item.time
            yield item.time, item.duration, item

    is_empty = True
    for time, item in choose_by_time(frames(), begin_s, end_s, fps, TIME_TOLERANCE_S):
        is_empty = False
        yield SegmentFrame(time, 1 / fps if fps else item.duration, to_rgb(item.frame))
    if is_empty:
        end = "the end" if end_s is None else f"{end_s:g} s"
        raise VideoError(f"{path}: no frame from {start_s or 0:g} s to {end}; the last frame is at {last_time:.3f} s")


def decode_frames(
    path: str, indices: Sequence[int], short_side: int | None = None, square_pixels: bool = True
) -> np.ndarray:
    """Decodes the frames `indices` and the frames that they depend on.

    Args:
        path: see `iter_frames`.
        indices: T frame numbers from 0, in any order; repeated numbers are allowed.
        short_side: see `iter_frames`.
        square_pixels: see `iter_frames`.

    Returns:
        uint8 [T, H, W, 3], RGB, in the order of `indices`.

    Raises:
        VideoError: the file cannot be read, or a frame number is out of range.
    """
    frames = dict(iter_numbers(path, sorted({int(index) for index in indices}), short_side, square_pixels))
    return np.stack([frames[int(index)] for index in indices])


def iter_numbers(
    path: str, numbers: Sequence[int], short_side: int | None = None, square_pixels: bool = True
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the frames with the increasing `numbers` from 0, as (number, uint8 [H, W, 3] RGB).

    Args and errors: as for `decode_frames`.
    """
    frame_times = read_frame_times(path)
    num_frames = len(frame_times.times)
    if not num_frames:
        raise _no_frames(path)
    if len(numbers) == 0 or numbers[0] < 0 or numbers[-1] >= num_frames:
        raise VideoError(
            f"{path}: invalid frame numbers {list(numbers)}; expected one or more from 0 to {num_frames - 1}"
        )
    missing = set(numbers)
    to_rgb: RgbConverter | None = None
    for number, item in _decode_numbers(path, frame_times, numbers):
        to_rgb = to_rgb or RgbConverter(path, frame_times.geometry or item.geometry, short_side, square_pixels)
        yield number, to_rgb(item.frame)
        missing.discard(number)
    if missing:
        raise VideoError(f"{path}: frame {min(missing)} of {num_frames} cannot be decoded")


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


def _no_frames(path: str) -> VideoError:
    return VideoError(f"{path}: no frame can be decoded; remove or replace the file")


def _decode_numbers(path: str, frame_times: FrameTimes, numbers: Sequence[int]) -> Iterator[tuple[int, DecodedFrame]]:
    """Decodes the frames of the increasing `numbers`, one pass per group of `_group_by_keyframes`."""
    if not len(frame_times.keyframe_times):
        chosen = set(numbers)
        decoded = itertools.islice(decode_from(path, None), numbers[-1] + 1)
        yield from ((number, item) for number, item in enumerate(decoded) if number in chosen)
        return
    times = frame_times.times[list(numbers)].tolist()
    number_of_time = dict(zip(times, numbers, strict=True))
    for group in _group_by_keyframes(times, frame_times.keyframe_times):
        yield from ((number_of_time[item.time], item) for item in _decode_times(path, group))


def _decode_times(path: str, times: list[float]) -> Iterator[DecodedFrame]:
    """Decodes the frames at exactly the increasing `times`."""
    chosen = set(times)
    for item in decode_from(path, times[0]):
        if item.time in chosen:
            yield item
        if item.time >= times[-1]:
            break


def _group_by_keyframes(times: list[float], keyframe_times: np.ndarray) -> list[list[float]]:
    """Splits increasing times where a new seek skips at least one whole group of pictures."""
    groups: list[list[float]] = []
    last_keyframe = -1
    for time in times:
        keyframe = int(np.searchsorted(keyframe_times, time, "right"))
        if not groups or keyframe > last_keyframe + 1:
            groups.append([])
        groups[-1].append(time)
        last_keyframe = keyframe
    return groups
