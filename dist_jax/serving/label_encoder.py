"""Text features of typed class names, with a bounded cache."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

TEXT_BATCH = 16  # class names per call of the text tower: one compiled program for any number of names
CAPACITY = 4096  # cached names; E floats each


class LabelEncoder:
    """Encodes class names, and keeps the text features of the latest ones.

    Args:
        encode: TEXT_BATCH class names -> float32 [TEXT_BATCH, E].
        capacity: maximum number of cached names.
    """

    def __init__(self, encode: Callable[[list[str]], np.ndarray], capacity: int = CAPACITY) -> None:
        self._encode, self._capacity = encode, capacity
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()  # the latest name is the last one
        self._lock = threading.Lock()

    def __call__(self, names: Sequence[str]) -> np.ndarray:
        """Text features of K class names: float32 [K, E]."""
        with self._lock:
            features = {name: self._cache[name] for name in names if name in self._cache}
            missing = [name for name in names if name not in features]
            for start in range(0, len(missing), TEXT_BATCH):
                part = missing[start : start + TEXT_BATCH]
                padded = part + part[:1] * (TEXT_BATCH - len(part))
                features |= dict(zip(part, np.asarray(self._encode(padded)), strict=False))
            for name in names:
                self._cache[name] = features[name]
                self._cache.move_to_end(name)
            while len(self._cache) > self._capacity:
                self._cache.popitem(last=False)
            return np.stack([features[name] for name in names])
