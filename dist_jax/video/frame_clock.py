"""Times of decoded frames, in seconds from the start of the file.

The start of the file is the earliest start of its streams, as `ffmpeg -ss` and players count. If the video track begins
0.5 s after the audio track, its first frame is at 0.5 s.
"""

import collections
from fractions import Fraction

import av
from av.format import Flags

from dist_jax.video.opening import OpenVideo

# ffmpeg's limits for MPEG streams: a larger step of the time stamps means that they restart.
_MAX_STEP_BACK_S = 0.1
_MAX_STEP_S = 10.0


class FrameClock:
    """Gives the frames of a file their times, in the order of decoding.

    A frame's time is its presentation time. Exceptions:

    - AVI stores no presentation times, and those that the demuxer infers are out of order with B-frames. Packets are
      stored at regular times: the n-th frame has the time of the n-th packet.
    - Raw streams store no times: the number of the frame and the frame rate give its time.
    - MPEG streams: a frame without time follows the previous one.
    - MPEG streams and live streams: where the time stamps restart, time continues.

    Times never decrease.

    Args:
        video: an open video, at its start or after a seek.
        is_live: whether it is a live stream of any format: its encoder may restart.
    """

    def __init__(self, video: OpenVideo, is_live: bool = False) -> None:
        flags = Flags(video.container.format.flags)
        self._is_raw = Flags.no_timestamps in flags
        self._is_avi = video.container.format.name == "avi"
        self._is_mpeg = Flags.ts_discont in flags
        self._may_restart = self._is_mpeg or is_live
        self._time_base = video.stream.time_base or Fraction(1, av.time_base)
        self.start = start_of_file(video)
        self._period = 1 / video.average_fps
        self._packet_times: collections.deque[float] = collections.deque()  # of packets that are not decoded yet
        self._has_keyframe = False
        self._num_frames = 0
        self._last, self._end, self._shift = -float("inf"), 0.0, 0.0

    def add_packet(self, packet: av.Packet) -> None:
        """Registers a packet before it is decoded."""
        if packet.is_keyframe and not self._has_keyframe:
            self._has_keyframe = True
            self._packet_times.clear()  # decoders skip the packets before the first key frame
        if packet.size and packet.dts is not None:
            self._packet_times.append(self.seconds(packet.dts))

    def drop_packet(self) -> None:
        """Forgets the last packet: it cannot be decoded."""
        if self._packet_times:
            self._packet_times.pop()

    def next_time(self, frame: av.VideoFrame) -> tuple[float, float]:
        """Time and duration of the next decoded frame, in seconds."""
        packet_time = self._packet_times.popleft() if self._packet_times else None
        duration = self._period
        if self._is_raw:
            time = self._num_frames * self._period
        elif self._is_avi or frame.pts is None:
            time = self._end if packet_time is None or self._is_mpeg else packet_time + self._shift
        else:
            time = self.seconds(frame.pts) + self._shift
            duration = float(frame.duration * self._time_base) if frame.duration else self._period
        if self._num_frames:
            step = time - self._end
            if self._may_restart and not -_MAX_STEP_BACK_S <= step <= _MAX_STEP_S:
                self._shift -= step
                time = self._end
            time = max(time, self._last)
        self._num_frames += 1
        self._last, self._end = time, time + duration
        return time, duration

    def seconds(self, timestamp: int) -> float:
        """Seconds from the start of the file to a time stamp of the stream."""
        return float(timestamp * self._time_base - self.start)


def start_of_file(video: OpenVideo) -> Fraction:
    """Earliest time stamp of all streams, in seconds. 0 if the file has no times."""
    starts = [
        stream.start_time * stream.time_base
        for stream in video.container.streams
        if stream.start_time is not None and stream.time_base
    ]
    if video.container.start_time is None:
        return min(starts, default=Fraction(0))
    # FFmpeg omits late and early subtitles, but rounds to microseconds.
    rounded = Fraction(video.container.start_time, av.time_base)
    nearest = min(starts, key=lambda start: abs(start - rounded), default=rounded)
    return nearest if abs(nearest - rounded) <= Fraction(1, av.time_base) else rounded
