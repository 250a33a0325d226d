"""Resizing of frames, with OpenCV. The input pipeline and prediction both use it, so that their pixels are equal."""

import platform
from collections.abc import Iterator
from typing import Protocol

import cv2
import numpy as np

# The callers run several clips in parallel, one thread each.
cv2.setNumThreads(1)


# INTER_LINEAR takes half of the time. On arm64, it crashes in OpenCV 4.14 and 5.0 (OpenCV issue 29794), and its pixels
# depend on the processor.
_IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
_INTERPOLATION = cv2.INTER_LINEAR if _IS_X86 else cv2.INTER_LINEAR_EXACT


class Frames(Protocol):
    """m frames uint8 [h, w, 3]: an array [m, h, w, 3], a list, or frames that are decoded during the iteration."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[np.ndarray]: ...


def resize_bilinear(
    frames: Frames, height: int, width: int, flip: bool = False, out: np.ndarray | None = None
) -> np.ndarray:
    """Resizes frames: bilinear between pixel centres, with repeated borders and without antialiasing.

    Args:
        frames: m arrays uint8 [h, w, 3]. They may be cropped views.
        height: new height, pixels, at least 1.
        width: new width, pixels, at least 1.
        flip: whether to reverse the columns.
        out: memory of the result, or None.

    Returns:
        uint8 [m, height, width, 3]. A pixel differs from the rounded exact value by at most 1, because the weights are
        integers. It is the same on every x86 processor, and may differ by 1 on others.

    Raises:
        ValueError: a frame of another type or number of channels.
    """
    resized = np.empty((len(frames), height, width, 3), np.uint8) if out is None else out
    for frame, target in zip(frames, resized, strict=True):
        if frame.dtype != np.uint8 or frame.shape[2:] != (3,):  # OpenCV would not write to `target`
            raise ValueError(f"a frame is {frame.dtype} {list(frame.shape)}, expected uint8 [h, w, 3]")
        cv2.resize(frame, (width, height), dst=target, interpolation=_INTERPOLATION)
        if flip:
            cv2.flip(target, 1, dst=target)
    return resized
