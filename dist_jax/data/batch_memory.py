"""Memory of the pixels of batches, used again."""

import sys

import numpy as np


class BatchMemory:
    """Hands out arrays of one shape, and hands an array out again when nothing else refers to it.

    New memory of this size comes from the system page by page, filled with zeros. That takes 0.7 ms per clip, an
    eighth of the time of decoding it. Views of an array and the arrays of JAX that share its memory refer to it.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        """`shape` is that of every array; their type is uint8."""
        self._shape = shape
        self._arrays: list[np.ndarray] = []

    def take(self) -> np.ndarray:
        """An array with arbitrary content. It belongs to the caller while the caller refers to it."""
        for array, count in zip(self._arrays, _reference_counts(self._arrays), strict=True):
            if count == _COUNT_IF_UNUSED:
                return array
        self._arrays.append(np.empty(self._shape, np.uint8))
        return self._arrays[-1]


def _reference_counts(arrays: list[np.ndarray]) -> list[int]:
    return [sys.getrefcount(array) for array in arrays]


# Measured, because it depends on the version of Python: the list and the variables of the loop also refer to an array.
_COUNT_IF_UNUSED = _reference_counts([np.empty(1, np.uint8)])[0]
