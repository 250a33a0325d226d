"""Detects files that end early: their header promises frames after the last one.

Only headers that state a length count: the sample table of MP4, the index or frame count of AVI, the duration of
Matroska, Flash, Windows Media and MXF. MPEG streams and raw streams promise nothing.
"""

import contextlib
from collections.abc import Iterator

import av

from dist_jax.video.opening import OpenVideo

_DURATION_SLACK_S = {
    "matroska,webm": 0.0,
    "flv": 1.0,
    "asf": 0.25,
    "mxf": 0.25,
}  # seconds, error of the duration in the header


class FileEnd:
    """Follows the packets of a file up to its end.

    Args:
        video: an open video, at its start or after a seek.
    """

    def __init__(self, video: OpenVideo) -> None:
        self._video = video
        self._format = video.container.format.name
        self._last_dts: int | None = None
        self._max_gap = 1 / video.average_fps  # seconds between consecutive frames
        self._end = 0.0  # seconds, of all streams
        self._is_cut = False

    def packets(self) -> Iterator[av.Packet]:
        """The packets of the video stream up to the end of the file; the last one is empty and flushes the decoder."""
        container, stream = self._video.container, self._video.stream
        # A duration includes all streams.
        streams = [] if self._format in _DURATION_SLACK_S else [stream]
        # PyAV raises IndexError after the last packet if a stream has appeared after the start of the file.
        with contextlib.suppress(IndexError):
            for packet in container.demux(*streams):
                if packet.size:  # in the middle of a file, an empty packet would end the decoder
                    self._add(packet)
                    if packet.stream_index == stream.index:
                        yield packet
        last = av.Packet()
        last.stream = stream
        yield last

    def is_early(self) -> bool:
        """Whether frames are missing at the end of the file. Valid after the last packet."""
        if self._format in _DURATION_SLACK_S:
            # The last frame of a file may have a longer duration than its packet says.
            slack = 1.5 * self._max_gap + _DURATION_SLACK_S[self._format]
            duration = self._video.container.duration
            return self._is_cut or (duration is not None and self._end + slack < duration / av.time_base)
        index = self._video.stream.index_entries
        last_indexed = index[-1].timestamp if len(index) else -1
        last = -1 if self._last_dts is None else self._last_dts
        if self._format == "avi":
            # A complete index is at the end of the file. Without packets there, the last frame is repeated. Many
            # programs count one frame more than they write.
            num_promised = self._video.stream.frames - 1
            return self._is_cut or max(last, last_indexed) + 1 < num_promised
        return self._format.startswith("mov,mp4") and (self._is_cut or last < last_indexed)

    def _add(self, packet: av.Packet) -> None:
        timestamp = packet.dts if packet.pts is None else packet.pts
        if timestamp is not None:
            self._end = max(self._end, float((timestamp + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index != self._video.stream.index:
            return
        self._is_cut = packet.is_corrupt  # fewer bytes than its header says
        if packet.dts is not None:
            if self._last_dts is not None:
                self._max_gap = max(self._max_gap, float((packet.dts - self._last_dts) * packet.time_base))
            self._last_dts = packet.dts
