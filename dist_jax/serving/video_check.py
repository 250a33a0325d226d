"""Checks an uploaded file before any frame is decoded for the model."""

import threading

import av

from dist_jax.serving.jobs import Stopped
from dist_jax.serving.limits import Limits, RequestError
from dist_jax.video import decoding, opening
from dist_jax.video.decoding import VideoError, VideoInfo

# Containers that hold their own frames. FFmpeg also reads playlists (HLS, DASH, concat), which name other files or
# addresses: an upload must not make the server read those.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,flv,asf,ogg,gif,apng,mxf,wtv,dv,"
    "ivf,nut"
)
MAX_PIXELS = 8192 * 4320  # of a frame
MAX_ASPECT = 8  # long side / short side: frames are scaled to a fixed short side
MAX_COUNTED_FPS = 120  # frames per second of the maximum length that are decoded to count the frames of a file


def check_video(path: str, limits: Limits, stop: threading.Event) -> VideoInfo:
    """Reads the size and length of an upload.

    Frames of files that are not exact (see `video.container`) are counted by decoding. The count ends at the maximum
    length, and at MAX_COUNTED_FPS frames per second of it: the header may state no length or a wrong one.

    Raises:
        RequestError: status 400, not a video in a supported container, or unusual frame sizes; 413, too long.
        Stopped: `stop` is set while frames are counted.
    """
    _check_container(path)
    try:
        header_s = opening.duration_s(path)  # decoding a long video only to count its frames takes too long
        if header_s is not None:
            _check_duration(header_s, limits)
        info = decoding.probe(path, on_frame=_FrameCount(limits, stop).add)
    except VideoError as error:
        raise RequestError(400, str(error).replace(path, "the video")) from error
    _check_duration(info.duration_s, limits)
    sides = sorted((info.width, info.height))
    if info.width * info.height > MAX_PIXELS or sides[1] > MAX_ASPECT * sides[0]:
        raise RequestError(
            400,
            f"the video has frames of {info.width} x {info.height} pixels; at most {MAX_PIXELS:,} pixels and "
            f"sides of {MAX_ASPECT}:1 are allowed",
        )
    return info


class _FrameCount:
    """Ends the count of frames: see `check_video`."""

    def __init__(self, limits: Limits, stop: threading.Event) -> None:
        self._limits, self._stop = limits, stop
        self._max_frames = limits.max_duration_s * MAX_COUNTED_FPS
        self._num_frames, self._start_s = 0, 0.0

    def add(self, time_s: float) -> None:
        """Counts a frame. Raises RequestError (status 413) or Stopped."""
        if self._stop.is_set():
            raise Stopped
        if not self._num_frames:
            self._start_s = time_s
        self._num_frames += 1
        if time_s - self._start_s > self._limits.max_duration_s:
            raise RequestError(413, f"the video has more than {self._limits.max_duration_s:g} s: cut it")
        if self._num_frames > self._max_frames:
            raise RequestError(
                413,
                f"the video has more than {self._max_frames:g} frames, {MAX_COUNTED_FPS} per second of the allowed "
                f"{self._limits.max_duration_s:g} s: cut it, or send it as MP4",
            )


def _check_container(path: str) -> None:
    try:
        av.open(f"file:{path}", "r", options={"format_whitelist": CONTAINERS}, metadata_errors="replace").close()
    except (av.FFmpegError, OSError) as error:
        raise RequestError(400, "the file is not a video that can be read (MP4, WebM, MKV, MOV, AVI, ...)") from error


def _check_duration(duration_s: float, limits: Limits) -> None:
    if duration_s > limits.max_duration_s:
        raise RequestError(
            413, f"the video has {duration_s:.1f} s; at most {limits.max_duration_s:g} s are allowed: cut it"
        )
