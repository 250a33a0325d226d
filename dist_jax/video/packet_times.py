"""Presentation times of packets, and whether they give the number and times of the frames without decoding."""

from array import array

import av

from dist_jax.video.opening import OpenVideo

_VP8_SHOW_FRAME = 0x10  # bit of a VP8 frame's first byte; frames without it are references and are never shown
# Codecs with one shown frame per packet. An MPEG-4 packet may hold two frames, or none.
_ONE_FRAME_PER_PACKET = ("h264", "hevc", "vp8", "vp9", "av1", "mjpeg", "prores", "ffv1")


_NO_TIME = -(1 << 63)  # FFmpeg's AV_NOPTS_VALUE
_KEYFRAME, _SHOWN = 1, 2  # bits


class PacketTimes:
    """Times of the packets of a video, from its first packet.

    Args:
        video: an open video, at its start.
    """

    def __init__(self, video: OpenVideo) -> None:
        self._codec = video.stream.codec_context.codec.canonical_name
        # FFmpeg unmarks damaged key frames.
        self._must_start_with_keyframe = video.must_start_with_keyframe
        self._can_be_exact = video.is_seekable and self._codec in _ONE_FRAME_PER_PACKET
        self._times = array("q")  # presentation time stamps; 9 bytes per packet, because videos can be hours long
        self._flags = bytearray()

    def add(self, packet: av.Packet) -> None:
        """Registers a packet of the video stream, in the order of the file."""
        if packet.size and not packet.is_corrupt:
            is_shown = not packet.is_discard and self._shows_frame(packet)
            self._times.append(_NO_TIME if packet.pts is None else packet.pts)
            self._flags.append(_KEYFRAME * packet.is_keyframe | _SHOWN * is_shown)

    @property
    def num_shown(self) -> int:
        """Number of packets that show a frame."""
        return sum(bool(flags & _SHOWN) for flags in self._flags)

    def timestamps(self, keyframes_only: bool = False) -> list[int]:
        """Time stamps of the packets that show a frame, in the order of the file. Missing ones are omitted."""
        required = _SHOWN | (_KEYFRAME if keyframes_only else 0)
        packets = zip(self._times, self._flags, strict=True)
        return [time for time, flags in packets if flags & required == required and time != _NO_TIME]

    def are_exact(self, first: av.VideoFrame | None) -> bool:
        """Whether every packet that shows a frame is one frame of sequential decoding.

        Not so in MPEG streams and AVI, and for equal or missing times, frames before the first key frame, and packets
        that are fields.

        Args:
            first: the first decoded frame; None: the decoder raised an error.
        """
        times = self.timestamps()
        if not self._can_be_exact or not times or len(set(times)) < self.num_shown or min(times) < times[0]:
            return False
        if not self._flags[0] & _KEYFRAME and not self._must_start_with_keyframe:
            return False
        if first is None:
            return True
        is_keyframe = first.key_frame or not self._flags[0] & _SHOWN  # an edit list may hide the key frame
        return first.pts == times[0] and is_keyframe and not first.interlaced_frame

    def _shows_frame(self, packet: av.Packet) -> bool:
        return self._codec != "vp8" or bool(memoryview(packet)[0] & _VP8_SHOW_FRAME)
