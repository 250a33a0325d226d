"""Real video files for tests, whose frames tell their number."""

from fractions import Fraction

import av
import numpy as np

STEP = 6  # grey levels between one frame and the next


def write_video(path, frames=40, width=64, height=48, rate=20, codec="libx264", gop=8, options=None):
    """A file of `frames` flat grey frames: frame i has the level STEP * i; every `gop`-th is a key frame."""
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
    """The numbers of frames of `write_video`; [n, H, W, 3] or a list of [H, W, 3]."""
    return [round(float(np.mean(frame)) / STEP) for frame in frames]
