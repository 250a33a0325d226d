"""A cache of the last used values, with a limit of their total size."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class RecentValues(Generic[Value]):
    """Keeps the last used values while their sizes add up to at most `max_size`. The last one always stays.

    Threads may share it.

    Args:
        max_size: limit of the sum of the sizes.
        size: of a value, in any unit.
    """

    def __init__(self, max_size: int, size: Callable[[Value], int]) -> None:
        self._max_size, self._size = max_size, size
        self._values: OrderedDict[str, tuple[Hashable, Value]] = OrderedDict()  # the last used one is at the end
        self._total = 0
        self._lock = threading.Lock()

    def get(self, key: str, state: Hashable, compute: Callable[[], Value]) -> Value:
        """Returns the value of `key`. It is computed if it is not kept, or if it was computed for another `state`."""
        with self._lock:
            saved = self._values.get(key)
            if saved is not None and saved[0] == state:
                self._values.move_to_end(key)
                return saved[1]
        value = compute()  # without the lock: threads compute different values at the same time
        with self._lock:
            self._remove(key)
            self._values[key] = state, value
            self._total += self._size(value)
            while self._total > self._max_size and len(self._values) > 1:
                self._remove(next(iter(self._values)))
        return value

    def _remove(self, key: str) -> None:
        if key in self._values:
            self._total -= self._size(self._values.pop(key)[1])
