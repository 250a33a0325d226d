"""What lies in a video file: its packets' times, and its frames in order from any time on.

AVI stores no presentation times, and what the demuxer infers is out of order with B-frames. There, and in raw streams,
a frame's time is its number over the frame rate, and a cut decodes from the start of the file.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator

import av
from av.format import Flags

from dist_jax import files
from dist_jax.errors import UserError

_KEPT = 4096  # files whose packets are remembered, some 10 kB each
_VP8_SHOWN = 0x10  # bit of a VP8 frame's first byte; without it the frame is only referred to, never shown


class VideoError(UserError):
    """A video that cannot be read: which one, and why."""


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A frame and when it is shown."""

    time: float  # seconds from the start of the stream
    duration: float  # seconds
    frame: av.VideoFrame

    def as_tuple(self) -> tuple[float, float, av.VideoFrame]:
        """Time, duration, frame."""
        return self.time, self.duration, self.frame


@dataclasses.dataclass(frozen=True)
class Packets:
    """When the frames of a file are shown, as its packets say."""

    rate: float  # frames a second, on average
    times: list[float]  # seconds, increasing: one for each frame
    keys: list[float]  # seconds, increasing: the frames that decoding can start at; empty: only the first


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    try:
        with contextlib.ExitStack() as stack:
            container = stack.enter_context(av.open(_source(path, stack)))
            stream = container.streams.best("video")  # not the cover picture
            if stream is None:
                raise VideoError(f"{path}: has no video stream")
            stream.codec_context.thread_count = 1
            yield container, stream
    except FileNotFoundError as error:
        raise VideoError(f"{path}: there is no such file") from error
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror or error})") from error


def _source(path: str, stack: contextlib.ExitStack) -> object:
    """What PyAV opens: the path, or an open file for a file system that FFmpeg does not know (gs://, hdfs://...)."""
    if not files.is_remote(path) or path.startswith(("http://", "https://")):
        return path
    try:
        return stack.enter_context(files.open_binary(path))
    except FileNotFoundError:
        raise
    except Exception as error:  # each file system raises its own classes
        raise VideoError(str(files.unreadable(path, error))) from error


def _rate(stream: av.VideoStream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)


def _numbered(container: av.container.InputContainer) -> bool:
    """Whether the container's times cannot be trusted, so that a frame's number is its time."""
    return container.format.name == "avi" or bool(container.format.flags & Flags.no_timestamps.value)


def scan(path: str) -> Packets:
    """The packets of the video at `path`, read once for a state of the file; VideoError if it cannot be read."""
    try:
        state = files.size_and_mtime(path)
    except UserError:  # a URL has no state; if the file is missing, opening it says so
        return _scan_file(path)
    return _known(path, state)


@functools.lru_cache(maxsize=_KEPT)
def _known(path: str, state: tuple[int, int]) -> Packets:
    del state
    return _scan_file(path)


def _scan_file(path: str) -> Packets:
    with _opened(path) as (container, stream):
        rate = _rate(stream)
        if not _numbered(container):
            scanned = [
                (_seconds(packet.pts, stream), packet.is_keyframe)
                for packet in container.demux(stream)
                if packet.size and packet.pts is not None and not packet.is_discard and _shown(packet, stream)
            ]
            return Packets(rate, sorted(time for time, _ in scanned), sorted(time for time, key in scanned if key))
    # Counted by decoding, because an AVI packet may hold no frame, or two.
    return Packets(rate, [item.time for item in decode_from(path, None)], [])


def _shown(packet: av.Packet, stream: av.VideoStream) -> bool:
    return stream.codec_context.codec.canonical_name != "vp8" or bool(memoryview(packet)[0] & _VP8_SHOWN)


def _seconds(pts: int, stream: av.VideoStream) -> float:
    return float((pts - (stream.start_time or 0)) * stream.time_base)


def decode_from(path: str, start_s: float | None) -> Iterator[Decoded]:
    """All frames from the last one at or before `start_s`, or somewhat earlier, on; None: from the first."""
    with _opened(path) as (container, stream):
        if start_s and not _numbered(container):
            # Formats without an index (MPEG-TS) may land behind the time asked for; then from further back.
            for back in (0.0, 1.0, 4.0, 16.0):
                frames, first = _sought(container, stream, path, start_s - back)
                if first is not None and first.time <= start_s:
                    yield first
                    yield from frames
                    return
    with _opened(path) as (container, stream):
        yield from _decode_on(container, stream, path)


def _sought(
    container: av.container.InputContainer, stream: av.VideoStream, path: str, time: float
) -> tuple[Iterator[Decoded], Decoded | None]:
    """The frames from a key frame near `time` on, the first of them taken off; None if there is none."""
    if time <= 0:
        return iter(()), None
    try:
        container.seek((stream.start_time or 0) + int(time / stream.time_base), stream=stream)
    except av.FFmpegError:  # some formats refuse a time behind the last key frame
        return iter(()), None
    frames = _decode_on(container, stream, path)
    return frames, next(frames, None)


def _decode_on(container: av.container.InputContainer, stream: av.VideoStream, path: str) -> Iterator[Decoded]:
    """Frames from where the container stands."""
    period, numbered, count = 1 / _rate(stream), _numbered(container), 0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise VideoError(f"{path}: is damaged or was cut short after {count} frames")
        for frame in packet.decode():
            if numbered or frame.pts is None:
                time, duration = count * period, period
            else:
                time = _seconds(frame.pts, stream)
                duration = float(frame.duration * stream.time_base) if frame.duration else period
            count += 1
            yield Decoded(time, duration, frame)
