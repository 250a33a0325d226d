"""Video files as RGB frames: by time (`iter_frames`), by number (`decode_frames`), and what a file holds (`probe`).

PyAV decodes; one thread per video, because the callers already run one video per process or thread. Times count from
the start of the video stream, in seconds. Pixels are those of the file (a sample aspect ratio is not applied), turned
upright where the file says that it was taken on its side.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from dist_jax.video.container import Packets, VideoError, decode_from, scan

Item = TypeVar("Item")

_ROUNDING_S = 0.51e-3  # Matroska and WebM store times to the nearest millisecond


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a video holds, from its packets (nothing but the first frame is decoded, save in AVI and raw streams)."""

    frames: int
    width: int  # pixels, upright
    height: int  # pixels, upright
    rate: float  # frames a second, on average
    times: np.ndarray  # float64 [frames], seconds, increasing

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return float(self.times[-1] - self.times[0]) + 1 / self.rate


def probe(path: str) -> VideoInfo:
    """Counts the frames of the video at `path` and finds their times; VideoError if there is none."""
    packets = scan(path)
    first = next(decode_from(path, None), None)
    if first is None or not packets.times:
        raise VideoError(f"{path}: no frame can be decoded; remove the file or make it again")
    width, height = first.frame.width, first.frame.height
    if _quarter_turns(first.frame) % 2:
        width, height = height, width
    return VideoInfo(len(packets.times), width, height, packets.rate, np.asarray(packets.times))


def iter_frames(
    path: str,
    start_s: float | None = None,
    end_s: float | None = None,
    fps: float | None = None,
    short_side: int | None = None,
) -> Iterator[tuple[float, np.ndarray]]:
    """Decodes the part [start_s, end_s) of a video, from the key frame before `start_s`.

    Args:
        path: A video file; `gs://` and other schemes that TensorFlow reads are read through it.
        start_s: seconds; None is the beginning.
        end_s: seconds; None is the end.
        fps: frames a second: frame k is the last one shown at or before start + k / fps. None or 0 takes every frame.
        short_side: pixels; larger frames are reduced to it (bicubic, the long side rounded to an even number). Smaller
          ones are never enlarged. None or 0 keeps the size.

    Yields:
        Time in seconds, and the frame, uint8 [H, W, 3], RGB.

    Raises:
        VideoError: the file cannot be read, is damaged, or has no frame in that part.
    """
    if start_s is not None and end_s is not None and end_s <= start_s:
        raise VideoError(f"{path}: the clip ends at {end_s:g} s, not after its start at {start_s:g} s")
    decoded = decode_from(path, start_s)
    first = next(decoded, None)
    if first is None:
        raise VideoError(f"{path}: no frame can be decoded; remove the file or make it again")
    to_rgb, last = _Converter(short_side), first
    frames = ((last := item).as_tuple() for item in itertools.chain([first], decoded))
    empty = True
    for time, frame in choose_by_time(frames, start_s or 0.0, end_s, fps, _ROUNDING_S):
        empty = False
        yield time, to_rgb(frame)
    if empty:
        part = f"from {start_s or 0:g} s to {'the end' if end_s is None else f'{end_s:g} s'}"
        raise VideoError(f"{path}: no frame {part}; the last one seen was at {last.time:.3f} s")


def decode_frames(path: str, indices: Sequence[int], short_side: int | None = None) -> np.ndarray:
    """Decodes chosen frames and, between them, only what they depend on.

    Args:
        path: A video file.
        indices: frame numbers from 0, in any order, repeated or not; [T].
        short_side: as for `iter_frames`.

    Returns:
        uint8 [T, H, W, 3], RGB, in the order of `indices`.

    Raises:
        VideoError: the file cannot be read, or has no frame of such a number.
    """
    packets = scan(path)
    if not packets.times:
        raise VideoError(f"{path}: no frame can be decoded; remove the file or make it again")
    if len(indices) == 0 or min(indices) < 0 or max(indices) >= len(packets.times):
        raise VideoError(f"{path}: frames {list(indices)} asked for; it has {len(packets.times)}, counted from 0")
    to_rgb = _Converter(short_side)
    found = {number: to_rgb(frame) for number, frame in _by_number(path, packets, sorted({int(i) for i in indices}))}
    missing = sorted({int(i) for i in indices} - found.keys())
    if missing:
        raise VideoError(f"{path}: frame {missing[0]} of {len(packets.times)} cannot be decoded")
    return np.stack([found[int(i)] for i in indices])


def choose_by_time(
    frames: Iterable[tuple[float, float, Item]],
    start_s: float,
    end_s: float | None,
    fps: float | None,
    tolerance: float = 0.0,
) -> Iterator[tuple[float, Item]]:
    """The frames of [start_s, end_s), all of them or `fps` a second.

    Args:
        frames: (time, duration, frame) in seconds, by increasing time.
        start_s: seconds.
        end_s: seconds; None is the end of the last frame.
        fps: the k-th frame is the last one at or before start_s + k / fps, or the very first where that is later.
          None or 0: every frame whose time is in the part.
        tolerance: seconds by which a time may be wrong.

    Yields:
        (time, frame).
    """
    end_s = np.inf if end_s is None else end_s
    if not fps:
        inside = itertools.takewhile(lambda f: f[0] < end_s - tolerance, frames)
        yield from ((time, item) for time, _, item in inside if time >= start_s - tolerance)
        return
    ticks = (start_s + k / fps for k in itertools.count())
    tick, held, ended = next(ticks), None, start_s
    for time, duration, item in frames:
        while held is not None and tick < min(time, end_s) - tolerance:
            yield tick, held[0]
            tick = next(ticks)
        held, ended = (item,), time + duration
        if tick >= end_s - tolerance:
            return
    while held is not None and tick < min(ended, end_s) - tolerance:
        yield tick, held[0]
        tick = next(ticks)


def reduced_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Width and height in pixels with the shorter one at most `short_side`, the other even and of the same aspect."""
    if not short_side or min(width, height) <= short_side:
        return width, height

    def scaled(side: int) -> int:
        return short_side if side == min(width, height) else 2 * round(side * short_side / min(width, height) / 2)

    return scaled(width), scaled(height)


class _Converter:
    """Frames to upright RGB arrays of at most a short side; keeps the scaler's tables from frame to frame.

    All frames get the size of the first one, as `ffmpeg` does it where a video changes its size on the way.
    """

    def __init__(self, short_side: int | None) -> None:
        self._short_side = short_side
        self._size = None
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        self._size = self._size or reduced_size(frame.width, frame.height, self._short_side)
        width, height = self._size
        # threads=1: handing a frame of this size to a thread pool costs more than scaling it.
        rgb = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1
        )
        return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), _quarter_turns(frame)))


def _quarter_turns(frame: av.VideoFrame) -> int:
    """How often the frame is to be turned counterclockwise by 90 degrees to stand upright."""
    return round(frame.rotation / 90) % 4


def _by_number(path: str, packets: Packets, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """The frames of increasing numbers `wanted`: one pass of decoding per stretch without an unneeded key frame."""
    index = {time: number for number, time in enumerate(packets.times)}
    for stretch in _stretches([packets.times[number] for number in wanted], packets.keys):
        wanted_times = set(stretch)
        start = stretch[0] if packets.keys else None
        for item in decode_from(path, start):
            if item.time in wanted_times:
                yield index[item.time], item.frame
            if item.time >= stretch[-1]:
                break


def _stretches(times: list[float], keys: list[float]) -> list[list[float]]:
    """Splits increasing times where a key frame lets decoding skip at least one whole group of frames."""
    stretches: list[list[float]] = []
    group = -1
    for time in times:
        after = bisect.bisect_right(keys, time)
        if not stretches or after > group + 1:
            stretches.append([])
        stretches[-1].append(time)
        group = after
    return stretches
