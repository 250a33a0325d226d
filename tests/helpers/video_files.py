"""Writes small video files. The grey level of a frame encodes its number."""

from fractions import Fraction

import av
import numpy as np

STEP = 6  # difference of the grey levels of consecutive frames


def write_video(path, frames=40, width=64, height=48, rate=20, codec="libx264", gop=8, options=None):
    """Writes a video of uniform grey frames: frame i has the level STEP * i. Every `gop`-th frame is a key frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options=options or {})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", gop
        stream.bit_rate = 4_000_000
        for number in range(frames):
            pixels = np.full((height, width, 3), STEP * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return str(path)


def numbers(frames):
    """Frame numbers of frames from `write_video`: [n, H, W, 3] or a list of [H, W, 3]."""
    return [round(float(np.mean(frame)) / STEP) for frame in frames]
