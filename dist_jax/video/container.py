"""Reads a video file with PyAV: the times of its frames, and its frames in order from a given time.

Frame k is frame k of sequential decoding. Two kinds of files:

- Exact: a good MP4 or Matroska file. Its packets give the number and times of the frames without decoding, and decoding
  can start at every key frame.
- All others (MPEG streams, AVI, raw streams; files that start between key frames, with equal or missing times, ...).
  Their frames are counted by decoding, and decoding starts at the first frame.
"""

import dataclasses
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import numpy as np

from dist_jax import files
from dist_jax.errors import UserError, warn
from dist_jax.video import geometry
from dist_jax.video.file_end import FileEnd
from dist_jax.video.frame_clock import FrameClock
from dist_jax.video.geometry import FrameGeometry
from dist_jax.video.opening import OpenVideo, VideoError, open_live, open_video
from dist_jax.video.packet_times import PacketTimes
from dist_jax.video.recent_values import RecentValues

_MAX_CACHED_TIMES = 4_000_000  # 32 MB, 37 hours at 30 frames per second
_FILE_SIZE = 250  # in times: a file's other fields count as these many, which limits the number of short files
_SEEK_MARGINS_S = (0.0, 1.0, 4.0, 16.0)  # seconds


@dataclasses.dataclass(frozen=True)
class DecodedFrame:
    """A frame and its presentation time."""

    time: float  # seconds from the start of the file
    duration: float  # seconds
    frame: av.VideoFrame
    pixel_aspect: Fraction  # width / height of a stored pixel

    @property
    def geometry(self) -> FrameGeometry:
        """Size and orientation of the frame."""
        return geometry.of_frame(self.frame, self.pixel_aspect)


@dataclasses.dataclass(frozen=True)
class FrameTimes:
    """Presentation times of the frames of a file. The arrays are read-only, because they are cached."""

    fps: float  # average
    times: np.ndarray  # float64 [N], seconds from the start of the file; increasing, equal times only if not exact
    keyframe_times: np.ndarray  # float64 [K], seconds, increasing, where decoding can start; K = 0: only at the start
    geometry: FrameGeometry | None  # of the first frame; None: it cannot be decoded


def read_frame_times(path: str, on_frame: Callable[[float], None] | None = None) -> FrameTimes:
    """Returns the frame times of a video.

    They are cached until the file changes. The cache holds at most `_MAX_CACHED_TIMES` times, those of the last used
    files; the last file always stays.

    Args:
        path: see `open_video`.
        on_frame: called with the time (seconds) of every frame that is decoded only to count it. It may raise an error,
          which ends the count. Exact and cached files need no count.

    Raises:
        VideoError: the file cannot be read.
    """
    try:
        file_state = files.size_and_mtime(path)
    except UserError:  # a URL has no state; opening a missing file raises the error
        return _scan_file(path, on_frame)
    return _cache.get(path, file_state, lambda: _scan_file(path, on_frame))


def decode_from(path: str, start_s: float | None) -> Iterator[DecodedFrame]:
    """Decodes a video from the last frame at or before `start_s` seconds, or from an earlier one. None: from the first.

    As ffmpeg does, decoding continues after damaged packets of MPEG streams, AVI and raw streams, and skips the packets
    before the first key frame.

    Raises:
        VideoError: the file cannot be read, ends early, or is damaged (MP4, Matroska).
    """
    if start_s:
        with open_video(path) as video:
            for margin in _SEEK_MARGINS_S if video.is_seekable else ():
                frames, first = _seek(video, start_s - margin)
                if first is not None and first.time <= start_s:
                    yield first
                    yield from frames
                    return
    with open_video(path) as video:
        yield from _decode_packets(video, is_at_start=True)


def decode_live(name: str, timeout_s: float) -> Iterator[DecodedFrame]:
    """Decodes a live stream until it ends. Damaged packets are skipped. Times count from the start of the stream.

    A lost connection is the end of the stream, with a warning. Where the time stamps go back or jump by more than 10 s,
    the encoder has restarted, and time continues.

    Args:
        name: see `open_live`.
        timeout_s: see `open_live`.

    Raises:
        VideoError: the stream cannot be opened, or stalls.
    """
    with open_live(name, timeout_s) as video:
        clock = FrameClock(video, is_live=True)
        for packet in _live_packets(video, timeout_s):
            clock.add_packet(packet)
            for frame in _decode(packet, clock, must_decode=False):
                yield DecodedFrame(*clock.next_time(frame), frame, _pixel_aspect(video.stream))


def _live_packets(video: OpenVideo, timeout_s: float) -> Iterator[av.Packet]:
    """The packets of a stream until it ends or is cut; the last one is empty and flushes the decoder."""
    try:
        yield from (packet for packet in video.container.demux(video.stream) if packet.size)
    except (av.ExitError, av.error.TimeoutError) as error:
        raise VideoError(f"{video.path}: no data for {timeout_s:g} s; the stream has stalled") from error
    except av.FFmpegError as error:  # many servers close the connection without the end of the stream
        warn(f"{video.path}: the connection was closed ({error.strerror})")
    last = av.Packet()
    last.stream = video.stream
    yield last


def _num_cached(frame_times: FrameTimes) -> int:
    """Size of a file in the cache, in times."""
    return _FILE_SIZE + len(frame_times.times) + len(frame_times.keyframe_times)


_cache: RecentValues[FrameTimes] = RecentValues(_MAX_CACHED_TIMES, _num_cached)


def _scan_file(path: str, on_frame: Callable[[float], None] | None = None) -> FrameTimes:
    with open_video(path) as video:
        fps = video.average_fps
        exact_times = _scan_packets(video) if video.is_seekable else None
    if exact_times is not None:
        return exact_times
    times, first = [], None
    for item in decode_from(path, None):
        first = first or item
        times.append(item.time)
        if on_frame is not None:
            on_frame(item.time)
    return FrameTimes(fps, _read_only(times), _read_only([]), first.geometry if first else None)


def _scan_packets(video: OpenVideo) -> FrameTimes | None:
    """Reads the frame times from the packets and decodes the first frame. None: the packets are not exact."""
    clock, file_end, packet_times = FrameClock(video), FileEnd(video), PacketTimes(video)
    first: av.VideoFrame | None = None
    can_decode = True
    for packet in file_end.packets():
        packet_times.add(packet)
        if first is None and can_decode:
            try:
                first = next(iter(packet.decode()), None)
            except av.FFmpegError:  # reading this frame raises the error
                can_decode = False
    if file_end.is_early():
        raise _damaged(video.path, packet_times.num_shown, "the file ends early")
    if (first is None and can_decode) or not packet_times.are_exact(first):
        return None
    times, keyframe_times = (
        _read_only(sorted(clock.seconds(pts) for pts in packet_times.timestamps(keyframes_only)))
        for keyframes_only in (False, True)
    )
    shape = None if first is None else geometry.of_frame(first, _pixel_aspect(video.stream))
    return FrameTimes(video.average_fps, times, keyframe_times, shape)


def _read_only(times: list[float]) -> np.ndarray:
    """float64 [N]: 8 bytes per time instead of 33 in a list."""
    array = np.array(times, np.float64)
    array.flags.writeable = False
    return array


def _pixel_aspect(stream: av.VideoStream) -> Fraction:
    return stream.sample_aspect_ratio or Fraction(1)


def _seek(video: OpenVideo, time: float) -> tuple[Iterator[DecodedFrame], DecodedFrame | None]:
    """Seeks to a key frame near `time`. Returns the first frame there (None: no frame) and an iterator of the next."""
    if time <= 0:
        return iter(()), None
    try:
        timestamp = round((Fraction(time) + FrameClock(video).start) / video.stream.time_base)
        video.container.seek(timestamp, stream=video.stream)
    except (av.FFmpegError, OverflowError):  # some formats reject a time after the last key frame
        return iter(()), None
    frames = _decode_packets(video)
    first = next(frames, None)
    # A frame without time has no place in the order, and a packet may be wrongly marked as a key frame.
    is_usable = first is not None and first.frame.pts is not None and first.frame.key_frame
    return frames, first if is_usable else None


def _decode_packets(video: OpenVideo, is_at_start: bool = False) -> Iterator[DecodedFrame]:
    """Decodes the frames from the container's current position to its end."""
    clock, file_end, packet_times, num_frames = FrameClock(video), FileEnd(video), PacketTimes(video), 0
    first: av.VideoFrame | None = None
    is_after_keyframe = video.must_start_with_keyframe
    try:
        for packet in file_end.packets():
            is_after_keyframe |= packet.is_keyframe
            must_decode = video.is_seekable and is_after_keyframe
            if must_decode and packet.is_corrupt:
                raise _damaged(video.path, num_frames, "the file ends early")
            clock.add_packet(packet)
            packet_times.add(packet)
            for frame in _decode(packet, clock, must_decode):
                first = first or frame
                time, duration = clock.next_time(frame)
                num_frames += 1
                yield DecodedFrame(time, duration, frame, _pixel_aspect(video.stream))
    except av.FFmpegError as error:
        raise _damaged(video.path, num_frames, error.strerror) from error
    if file_end.is_early():
        raise _damaged(video.path, num_frames, "the file ends early")
    num_expected = packet_times.num_shown
    if is_at_start and num_frames < num_expected and packet_times.are_exact(first):
        raise VideoError(f"{video.path}: is damaged: {num_expected - num_frames} of {num_expected} frames are missing")


def _decode(packet: av.Packet, clock: FrameClock, must_decode: bool) -> list[av.VideoFrame]:
    try:
        return packet.decode()
    except av.FFmpegError:
        if must_decode:
            raise
        clock.drop_packet()
        return []


def _damaged(path: str, num_frames: int, reason: str) -> VideoError:
    return VideoError(f"{path}: is damaged after {num_frames} frame{'s'[: num_frames != 1]} ({reason})")
