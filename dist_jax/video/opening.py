"""Opens video files with PyAV: names, file systems, the choice of the video stream, and error messages."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from typing import IO

import av
from av.stream import Disposition

from dist_jax import files
from dist_jax.errors import UserError

_DEFAULT_STREAM_PIXELS = 5_000_000  # ffmpeg's preference of a default stream, in pixels of the frame size
_CAMERA_FORMATS = {"linux": "v4l2"}  # of /dev/video..., by sys.platform
HTTP = ("http://", "https://")
_HTTP_TIMEOUT_S = 60.0  # maximum time to open and for each read; a server that stalls must not block a worker for ever
_SEEKABLE_FORMATS = ("mov,mp4", "matroska")  # prefixes of FFmpeg's names


class VideoError(UserError):
    """An unreadable video: its path and the reason."""


@dataclasses.dataclass(frozen=True)
class OpenVideo:
    """An open video file and its video stream."""

    path: str
    container: av.container.InputContainer
    stream: av.VideoStream

    @property
    def is_seekable(self) -> bool:
        """Whether the container has an index and a time for every frame: MP4, QuickTime, Matroska, WebM."""
        return self.container.format.name.startswith(_SEEKABLE_FORMATS)

    @property
    def must_start_with_keyframe(self) -> bool:
        """Whether the sample table (MP4, QuickTime) says that decoding can start at the first packet."""
        index = self.stream.index_entries
        return self.container.format.name.startswith("mov,mp4") and len(index) > 0 and index[0].is_keyframe

    @property
    def average_fps(self) -> float:
        """Frames per second; 25 if the file has no frame rate (FFmpeg's default)."""
        return float(self.stream.average_rate or self.stream.guessed_rate or 25)


@contextlib.contextmanager
def open_video(path: str) -> Iterator[OpenVideo]:
    """Opens a video file and chooses its video stream.

    Args:
        path: a local path, a URL (http, https), or a path on a file system of TensorFlow (gs://).

    Raises:
        VideoError: the file cannot be opened, it has no video stream, FFmpeg raises an error in the context, or a
            server sends nothing for _HTTP_TIMEOUT_S.
    """
    with _readable(path), contextlib.ExitStack() as stack:
        source = _av_source(path, stack)
        timeout = _HTTP_TIMEOUT_S if isinstance(source, str) and source.startswith(HTTP) else None
        container = av.open(source, "r", timeout=timeout, metadata_errors="replace")
        yield _choose(path, stack.enter_context(container))


@contextlib.contextmanager
def open_live(name: str, timeout_s: float) -> Iterator[OpenVideo]:
    """Opens a live stream and chooses its video stream.

    Args:
        name: anything that FFmpeg opens: a URL, a camera (/dev/video0), a file or a pipe (/dev/fd/63); "-": standard
          input.
        timeout_s: maximum time to open and for each read, seconds. Pipes and standard input wait without limit.

    Raises:
        VideoError: as `open_video`.
    """
    with _readable(name), contextlib.ExitStack() as stack:
        # Not sys.stdin: the interpreter cannot exit while a thread reads it.
        source = stack.enter_context(open(0, "rb", buffering=0, closefd=False)) if name == "-" else name
        input_format = _CAMERA_FORMATS.get(sys.platform) if _is_camera(name) else None
        timeouts = (timeout_s, timeout_s)
        container = av.open(source, "r", format=input_format, timeout=timeouts, metadata_errors="replace")
        yield _choose(name, stack.enter_context(container))


def duration_s(path: str) -> float | None:
    """The length of a video file in its header, seconds; None: the header has no length.

    Raises:
        VideoError: as `open_video`.
    """
    with open_video(path) as video:
        return None if video.container.duration is None else video.container.duration / av.time_base


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    """Raises VideoError for errors of FFmpeg and of the file system."""
    try:
        yield
    except FileNotFoundError as error:
        raise VideoError(f"{path}: no such file") from error
    except av.error.ExitError as error:  # PyAV's timeout
        raise VideoError(f"{path}: cannot be read (the source sends no data)") from error
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror or error})") from error


def _is_camera(name: str) -> bool:
    """Whether a name is /dev/video0, ..., or a link to it (/dev/v4l/by-id/...). Other devices are read as files."""
    return os.path.realpath(name).startswith("/dev/video")


def _choose(path: str, container: av.container.InputContainer) -> OpenVideo:
    stream = choose_stream(container.streams.video)
    if stream is None:
        raise VideoError(f"{path}: no video stream")
    if stream.codec_context is None:
        raise VideoError(f"{path}: cannot be read (FFmpeg has no decoder for this video codec)")
    stream.codec_context.thread_count = 1
    return OpenVideo(path, container, stream)


def choose_stream(streams: Sequence[av.VideoStream]) -> av.VideoStream | None:
    """The stream that ffmpeg converts by default: the largest one, with a preference for default streams.

    Attached pictures (the cover of a song) are no videos. None: no video stream.
    """
    videos = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]

    def score(stream: av.VideoStream) -> int:
        pixels = stream.width * stream.height if stream.codec_context else 0
        return pixels + _DEFAULT_STREAM_PIXELS * bool(stream.disposition & Disposition.default)

    return max(videos, key=score, default=None)


def _av_source(path: str, stack: contextlib.ExitStack) -> str | IO[bytes]:
    """The argument of av.open: a name with protocol, or an open file on a file system that FFmpeg does not support."""
    if path.startswith(HTTP):
        return path
    if not files.is_remote(path):
        if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for its writer
            raise VideoError(f"{path}: cannot be read (not a file)")
        return f"file:{path}"  # without the protocol, 12:30.mp4 means the protocol "12"
    try:
        return stack.enter_context(files.open_binary(path))
    except FileNotFoundError:
        raise
    except Exception as error:  # each file system raises its own classes
        raise VideoError(str(files.unreadable(path, error))) from error
