"""Reads a video file with PyAV: the times of its frames, and its frames in order from a given time.

Frame k is frame k of sequential decoding. Two kinds of files:

- Exact: a good MP4 or Matroska file. Its packets give the number and times of the frames without decoding, and decoding
  can start at every key frame.
- All others (MPEG streams, AVI, raw streams; files that start between key frames, with equal or missing times, ...).
  Their frames are counted by decoding, and decoding starts at the first frame.
"""

import dataclasses
import functools
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av

from dist_jax import files
from dist_jax.errors import UserError
from dist_jax.video import geometry
from dist_jax.video.file_end import FileEnd
from dist_jax.video.frame_clock import FrameClock
from dist_jax.video.geometry import FrameGeometry
from dist_jax.video.opening import OpenVideo, VideoError, open_video

_CACHED_FILES = 4096  # frame times of one file take about 10 kB
_SEEK_MARGINS_S = (0.0, 1.0, 4.0, 16.0)  # seconds
_VP8_SHOW_FRAME = 0x10  # bit of a VP8 frame's first byte; frames without it are references and are never shown
# Codecs with one shown frame per packet. An MPEG-4 packet may hold two frames, or none.
_ONE_FRAME_PER_PACKET = ("h264", "hevc", "vp8", "vp9", "av1", "mjpeg", "prores", "ffv1")


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
    """Presentation times of the frames of a file."""

    fps: float  # average
    times: list[float]  # seconds from the start of the file, one per frame; increasing, equal times only if not exact
    keyframe_times: list[float]  # seconds, increasing, where decoding can start; empty: only at the first frame
    geometry: FrameGeometry | None  # of the first frame; None: it cannot be decoded


class _PacketTime(NamedTuple):
    pts: int | None  # presentation time stamp
    is_keyframe: bool
    is_shown: bool


def read_frame_times(path: str) -> FrameTimes:
    """Returns the frame times of a video. Cached until the file changes. Raises VideoError if it cannot be read."""
    try:
        file_state = files.size_and_mtime(path)
    except UserError:  # a URL has no state; opening a missing file raises the error
        return _scan_file(path)
    return _scan_file_cached(path, file_state)


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
        yield from _decode_packets(video)


@functools.lru_cache(maxsize=_CACHED_FILES)
def _scan_file_cached(path: str, file_state: tuple[int, int]) -> FrameTimes:
    del file_state  # part of the cache key only
    return _scan_file(path)


def _scan_file(path: str) -> FrameTimes:
    with open_video(path) as video:
        fps = video.average_fps
        exact_times = _scan_packets(video) if video.is_seekable else None
    if exact_times is not None:
        return exact_times
    times, first = [], None
    for item in decode_from(path, None):
        first = first or item
        times.append(item.time)
    return FrameTimes(fps, times, [], first.geometry if first else None)


def _scan_packets(video: OpenVideo) -> FrameTimes | None:
    """Reads the frame times from the packets and decodes the first frame. None: the packets are not exact."""
    stream, clock, file_end = video.stream, FrameClock(video), FileEnd(video)
    if stream.codec_context.codec.canonical_name not in _ONE_FRAME_PER_PACKET:
        return None
    packets: list[_PacketTime] = []
    first: av.VideoFrame | None = None
    can_decode = True
    for packet in file_end.packets():
        if first is None and can_decode:
            try:
                first = next(iter(packet.decode()), None)
            except av.FFmpegError:  # reading this frame raises the error
                can_decode = False
        if packet.size:
            is_shown = not packet.is_discard and _is_shown(packet, stream)
            packets.append(_PacketTime(packet.pts, packet.is_keyframe, is_shown))
    if file_end.is_early():
        raise _damaged(video.path, sum(packet.is_shown for packet in packets), "the file ends early")
    if (first is None and can_decode) or not _are_exact(packets, first, video):
        return None
    shown = [(clock.seconds(packet.pts), packet.is_keyframe) for packet in packets if packet.is_shown]
    keyframe_times = sorted(time for time, is_keyframe in shown if is_keyframe)
    shape = None if first is None else geometry.of_frame(first, _pixel_aspect(stream))
    return FrameTimes(video.average_fps, sorted(time for time, _ in shown), keyframe_times, shape)


def _are_exact(packets: list[_PacketTime], first: av.VideoFrame | None, video: OpenVideo) -> bool:
    """Whether every shown packet is one frame: distinct times, none before the first key frame, no separate fields."""
    times = [packet.pts for packet in packets if packet.is_shown]
    if not times or None in times or len(set(times)) < len(times) or min(times) < times[0]:
        return False
    if not packets[0].is_keyframe and not video.must_start_with_keyframe:  # FFmpeg unmarks damaged key frames
        return False
    if first is None:
        return True
    is_keyframe = first.key_frame or not packets[0].is_shown  # an edit list may hide the key frame
    return first.pts == times[0] and is_keyframe and not first.interlaced_frame


def _is_shown(packet: av.Packet, stream: av.VideoStream) -> bool:
    return stream.codec_context.codec.canonical_name != "vp8" or bool(memoryview(packet)[0] & _VP8_SHOW_FRAME)


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


def _decode_packets(video: OpenVideo) -> Iterator[DecodedFrame]:
    """Decodes the frames from the container's current position to its end."""
    clock, file_end, num_frames = FrameClock(video), FileEnd(video), 0
    is_after_keyframe = video.must_start_with_keyframe
    try:
        for packet in file_end.packets():
            is_after_keyframe |= packet.is_keyframe
            must_decode = video.is_seekable and is_after_keyframe
            if must_decode and packet.is_corrupt:
                raise _damaged(video.path, num_frames, "the file ends early")
            clock.add_packet(packet)
            for frame in _decode(packet, clock, must_decode):
                time, duration = clock.next_time(frame)
                num_frames += 1
                yield DecodedFrame(time, duration, frame, _pixel_aspect(video.stream))
    except av.FFmpegError as error:
        raise _damaged(video.path, num_frames, error.strerror) from error
    if file_end.is_early():
        raise _damaged(video.path, num_frames, "the file ends early")


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
