"""Geometry of frames: stored size, pixel aspect ratio, and orientation from the file's display matrix."""

import dataclasses
import math
import struct
from fractions import Fraction
from typing import NamedTuple, cast

import av
import numpy as np


class Orientation(NamedTuple):
    """How stored pixels become upright: transpose first, then flip. Eight cases: quarter turns, with or without mirror.

    ffmpeg's autorotation gives the same pixels.
    """

    transpose: bool = False  # swap rows and columns
    flip_rows: bool = False  # upside down
    flip_columns: bool = False  # left-right

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the upright pixels [H, W, C] of stored pixels [h, w, C], contiguous. H, W = w, h if transposed."""
        upright = pixels.swapaxes(0, 1) if self.transpose else pixels
        if self.flip_rows:
            upright = upright[::-1]
        if self.flip_columns:
            upright = upright[:, ::-1]
        return np.ascontiguousarray(upright)


@dataclasses.dataclass(frozen=True)
class FrameGeometry:
    """Size of the stored frames, and how they are shown."""

    width: int  # pixels, as stored
    height: int  # pixels, as stored
    pixel_aspect: Fraction  # width / height of a stored pixel
    orientation: Orientation


def of_frame(frame: av.VideoFrame, pixel_aspect: Fraction) -> FrameGeometry:
    """The geometry of a decoded frame. It is upright if it has no display matrix."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    orientation = Orientation() if matrix is None else from_display_matrix(bytes(cast(av.buffer.Buffer, matrix)))
    return FrameGeometry(frame.width, frame.height, pixel_aspect, orientation)


def from_display_matrix(matrix: bytes) -> Orientation:
    """The orientation of a display matrix.

    Args:
        matrix: nine native int32, rows (a, b, u), (c, d, v), (x, y, w). A stored pixel (column p, row q) is shown at
          column a p + c q + x, row b p + d q + y. Rotations by other angles are rounded to a quarter turn; a matrix
          that maps all pixels to a line or a point is ignored.
    """
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix[:36])
    if a * d == b * c:
        return Orientation()
    if math.hypot(a, d) >= math.hypot(b, c):
        return Orientation(False, flip_rows=d < 0, flip_columns=a < 0)
    return Orientation(True, flip_rows=b < 0, flip_columns=c < 0)
