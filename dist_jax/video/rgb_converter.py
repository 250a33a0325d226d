"""Converts decoded frames to upright RGB arrays with square pixels."""

from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from dist_jax.video.geometry import FrameGeometry
from dist_jax.video.opening import VideoError

_MAX_PIXEL_ASPECT = 16  # larger ones are damage, and would make images of gigabytes


class RgbConverter:
    """Converts the frames of one video, scaled down to a short side. Reuses the scaler's tables.

    All frames get the size and orientation of the first one. `ffmpeg` does the same if a video changes its size.

    Args:
        path: of the video, for error messages.
        geometry: of the first frame.
        short_side: pixels; larger frames are scaled down to it. None or 0: no scaling.
        square_pixels: scale the width of frames with non-square pixels.

    Raises:
        VideoError: the pixel aspect ratio is extreme.
    """

    def __init__(self, path: str, geometry: FrameGeometry, short_side: int | None, square_pixels: bool) -> None:
        self._path = path
        self._size = reduced_size(*unrotated_size(path, geometry, square_pixels), short_side)
        self._orientation = geometry.orientation
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Returns uint8 [H, W, 3]. Raises VideoError if FFmpeg cannot convert the pixels."""
        width, height = self._size
        try:
            # threads=1: for frames of this size, dispatch to a thread pool takes longer than scaling.
            rgb = self._reformatter.reformat(
                frame, width=width, height=height, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1
            )
        except av.FFmpegError as error:
            raise VideoError(f"{self._path}: frames cannot be converted to RGB ({error.strerror})") from error
        return self._orientation.apply(rgb.to_ndarray())


def unrotated_size(path: str, geometry: FrameGeometry, square_pixels: bool) -> tuple[int, int]:
    """Width and height in pixels before rotation, the width scaled for square pixels.

    Raises:
        VideoError: the pixel aspect ratio is extreme.
    """
    aspect = geometry.pixel_aspect if square_pixels else Fraction(1)
    if not 1 / _MAX_PIXEL_ASPECT <= aspect <= _MAX_PIXEL_ASPECT:
        raise VideoError(
            f"{path}: pixel aspect ratio {aspect} is not from 1/{_MAX_PIXEL_ASPECT} to {_MAX_PIXEL_ASPECT}; "
            "use --no-square-pixels to ignore it"
        )
    return max(round(geometry.width * aspect), 1), geometry.height


def reduced_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Width and height in pixels after scaling down to `short_side`. The long side is rounded to an even number."""
    if not short_side or min(width, height) <= short_side:
        return width, height

    def scaled(side: int) -> int:
        return short_side if side == min(width, height) else 2 * round(side * short_side / min(width, height) / 2)

    return scaled(width), scaled(height)
