"""Resizing of frames, with OpenCV. The input pipeline and prediction both use it, so that their pixels are equal."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

_ALIGNMENT = 64  # bytes: TensorFlow uses an aligned array without a copy

# The callers run several clips in parallel, one thread each.
cv2.setNumThreads(1)


def resize_bilinear(
    frames: Sequence[np.ndarray] | np.ndarray, height: int, width: int, flip: bool = False
) -> np.ndarray:
    """Resizes frames: bilinear between pixel centres, with repeated borders and without antialiasing.

    Args:
        frames: m arrays uint8 [h, w, 3]. They may be cropped views and may repeat.
        height: new height, pixels, at least 1.
        width: new width, pixels, at least 1.
        flip: whether to reverse the columns.

    Returns:
        uint8 [m, height, width, 3]. A pixel differs from the rounded exact value by at most 1, because the weights have
        8 bits. It is the same on every processor.
    """
    resized = _aligned_empty((len(frames), height, width, 3))
    for frame, target in zip(frames, resized, strict=True):
        # INTER_LINEAR depends on the processor, and in OpenCV 4.14 and 5.0 it crashes on arm64 (OpenCV issue 29794).
        cv2.resize(frame, (width, height), dst=target, interpolation=cv2.INTER_LINEAR_EXACT)
        if flip:
            cv2.flip(target, 1, dst=target)
    return resized


def _aligned_empty(shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape)
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].reshape(shape)
