"""Checks an uploaded file before any frame is decoded for the model."""

import av

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


def check_video(path: str, limits: Limits) -> VideoInfo:
    """Reads the size and length of an upload.

    Raises:
        RequestError: status 400, not a video in a supported container, or unusual frame sizes; 413, too long.
    """
    _check_container(path)
    try:
        header_s = opening.duration_s(path)  # decoding a long video only to count its frames takes too long
        if header_s is not None:
            _check_duration(header_s, limits)
        info = decoding.probe(path)
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
