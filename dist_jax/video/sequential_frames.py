"""Reads many sets of frames in one pass, from files that can only be decoded from the first frame (AVI, MPEG)."""

import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from dist_jax.video.container import decode_from, read_frame_times
from dist_jax.video.opening import VideoError
from dist_jax.video.rgb_converter import RgbConverter


def can_seek(path: str) -> bool:
    """Whether decoding can start at later key frames. Raises VideoError if the file cannot be read."""
    return len(read_frame_times(path).keyframe_times) > 0


class SequentialFrames:
    """Sets of frames that threads read approximately in order. Every frame is decoded once.

    Memory: the frames of later sets that are decoded already, and the sets that other threads have passed over.

    Args:
        path: see `decoding.iter_frames`.
        sets: frame numbers of each set, not empty. The sets are in the order of their last frames.
        short_side: see `decoding.iter_frames`.
        square_pixels: see `decoding.iter_frames`.
    """

    def __init__(self, path: str, sets: Sequence[np.ndarray], short_side: int, square_pixels: bool = True) -> None:
        self._sets = _decode_sets(path, sets, short_side, square_pixels)
        self._num_decoded = 0
        self._waiting: dict[int, np.ndarray] = {}  # sets that are decoded and not read
        self._error: VideoError | None = None
        self._lock = threading.Lock()

    def read(self, number: int) -> np.ndarray:
        """Returns the frames of a set once, in its order: RGB, uint8 [T, H, W, 3].

        Raises:
            VideoError: the set, or an earlier one, cannot be decoded.
        """
        with self._lock:
            while number not in self._waiting:
                if self._error is not None:
                    raise VideoError(str(self._error)) from self._error
                try:
                    self._waiting[self._num_decoded] = next(self._sets)
                except VideoError as error:
                    self._error = error
                    raise
                self._num_decoded += 1
            return self._waiting.pop(number)


def _decode_sets(path: str, sets: Sequence[np.ndarray], short_side: int, square_pixels: bool) -> Iterator[np.ndarray]:
    """Yields the frames of each set. A frame is kept from its decoding to its last set."""
    num_uses = Counter(number for numbers in sets for number in np.unique(numbers).tolist())
    frames: dict[int, np.ndarray] = {}
    geometry = read_frame_times(path).geometry
    to_rgb: RgbConverter | None = None
    decoded = decode_from(path, None)
    num_decoded = 0
    for numbers in sets:
        for item in itertools.islice(decoded, max(int(numbers.max()) + 1 - num_decoded, 0)):
            if num_decoded in num_uses:
                to_rgb = to_rgb or RgbConverter(path, geometry or item.geometry, short_side, square_pixels)
                frames[num_decoded] = to_rgb(item.frame)
            num_decoded += 1
        if num_decoded <= numbers.max():
            raise VideoError(f"{path}: frame {num_decoded} cannot be decoded")
        yield np.stack([frames[number] for number in numbers.tolist()])
        for number in np.unique(numbers).tolist():
            num_uses[number] -= 1
            if not num_uses[number]:
                del frames[number]
