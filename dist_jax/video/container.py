"""Reads a video file with PyAV: the frame times from its packets, and its frames in order from a given time.

AVI files store no presentation times, and the times that the demuxer infers are out of order with B-frames. For AVI and
raw streams the time of a frame is its number divided by the frame rate, and decoding always starts at the first frame.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import IO

import av
from av.format import Flags

from dist_jax import files
from dist_jax.errors import UserError

_CACHED_FILES = 4096  # frame times of one file take about 10 kB
_SEEK_MARGINS_S = (0.0, 1.0, 4.0, 16.0)  # seconds
_VP8_SHOW_FRAME = 0x10  # bit of a VP8 frame's first byte; frames without it are references and are never shown


class VideoError(UserError):
    """An unreadable video: its path and the reason."""


@dataclasses.dataclass(frozen=True)
class DecodedFrame:
    """A frame and its presentation time."""

    time: float  # seconds from the start of the stream
    duration: float  # seconds
    frame: av.VideoFrame

    def as_tuple(self) -> tuple[float, float, av.VideoFrame]:
        """Returns (time, duration, frame)."""
        return self.time, self.duration, self.frame


@dataclasses.dataclass(frozen=True)
class FrameTimes:
    """Presentation times of the frames of a file."""

    fps: float  # average
    times: list[float]  # seconds, increasing, one per frame
    keyframe_times: list[float]  # seconds, increasing, where decoding can start; empty: only at the first frame


def read_frame_times(path: str) -> FrameTimes:
    """Returns the frame times of a video. Cached until the file changes. Raises VideoError if it cannot be read."""
    try:
        file_state = files.size_and_mtime(path)
    except UserError:  # a URL has no state; opening a missing file raises the error
        return _scan_file(path)
    return _scan_file_cached(path, file_state)


def decode_from(path: str, start_s: float | None) -> Iterator[DecodedFrame]:
    """Decodes a video from the last frame at or before `start_s` seconds, or from an earlier one. None: from the first.

    Raises:
        VideoError: the file cannot be read or is damaged.
    """
    with _open(path) as (container, stream):
        if start_s and not _has_no_times(container):
            # In a format without an index (MPEG-TS), a seek may end after the target. Then seek to an earlier time.
            for margin in _SEEK_MARGINS_S:
                frames, first = _seek(container, stream, path, start_s - margin)
                if first is not None and first.time <= start_s:
                    yield first
                    yield from frames
                    return
    with _open(path) as (container, stream):
        yield from _decode_packets(container, stream, path)


@contextlib.contextmanager
def _open(path: str) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    try:
        with contextlib.ExitStack() as stack:
            container = stack.enter_context(av.open(_av_source(path, stack), "r"))
            stream = container.streams.best("video")  # not the cover picture
            if not isinstance(stream, av.VideoStream):
                raise VideoError(f"{path}: no video stream")
            stream.codec_context.thread_count = 1
            yield container, stream
    except FileNotFoundError as error:
        raise VideoError(f"{path}: no such file") from error
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror or error})") from error


def _av_source(path: str, stack: contextlib.ExitStack) -> str | IO[bytes]:
    """The argument of av.open: the path, or an open file on a file system that FFmpeg does not support (gs://)."""
    if not files.is_remote(path) or path.startswith(("http://", "https://")):
        return path
    try:
        return stack.enter_context(files.open_binary(path))
    except FileNotFoundError:
        raise
    except Exception as error:  # each file system raises its own classes
        raise VideoError(str(files.unreadable(path, error))) from error


@functools.lru_cache(maxsize=_CACHED_FILES)
def _scan_file_cached(path: str, file_state: tuple[int, int]) -> FrameTimes:
    del file_state  # part of the cache key only
    return _scan_file(path)


def _scan_file(path: str) -> FrameTimes:
    with _open(path) as (container, stream):
        fps = _average_fps(stream)
        if not _has_no_times(container):
            packets = [
                (_seconds(packet.pts, stream), packet.is_keyframe)
                for packet in container.demux(stream)
                if packet.size and packet.pts is not None and not packet.is_discard and _is_shown(packet, stream)
            ]
            times = sorted(time for time, _ in packets)
            return FrameTimes(fps, times, sorted(time for time, is_keyframe in packets if is_keyframe))
    # Decode to count the frames: an AVI packet may hold no frame, or two.
    return FrameTimes(fps, [item.time for item in decode_from(path, None)], [])


def _average_fps(stream: av.VideoStream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)


def _has_no_times(container: av.container.InputContainer) -> bool:
    """Whether the container has no reliable presentation times: a frame's number gives its time."""
    return container.format.name == "avi" or Flags.no_timestamps in Flags(container.format.flags)


def _is_shown(packet: av.Packet, stream: av.VideoStream) -> bool:
    return stream.codec_context.codec.canonical_name != "vp8" or bool(memoryview(packet)[0] & _VP8_SHOW_FRAME)


def _seconds(pts: int, stream: av.VideoStream) -> float:
    return float((pts - (stream.start_time or 0)) * stream.time_base)


def _seek(
    container: av.container.InputContainer, stream: av.VideoStream, path: str, time: float
) -> tuple[Iterator[DecodedFrame], DecodedFrame | None]:
    """Seeks to a key frame near `time`. Returns the first frame there (None: no frame) and an iterator of the next."""
    if time <= 0:
        return iter(()), None
    try:
        container.seek((stream.start_time or 0) + int(time / stream.time_base), stream=stream)
    except av.FFmpegError:  # some formats reject a time after the last key frame
        return iter(()), None
    frames = _decode_packets(container, stream, path)
    return frames, next(frames, None)


def _decode_packets(
    container: av.container.InputContainer, stream: av.VideoStream, path: str
) -> Iterator[DecodedFrame]:
    """Decodes the frames from the container's current position to its end."""
    period, has_no_times, count = 1 / _average_fps(stream), _has_no_times(container), 0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise VideoError(f"{path}: is damaged or truncated after {count} frames")
        for frame in packet.decode():
            if has_no_times or frame.pts is None:
                time, duration = count * period, period
            else:
                time = _seconds(frame.pts, stream)
                duration = float(frame.duration * stream.time_base) if frame.duration else period
            count += 1
            yield DecodedFrame(time, duration, frame)
