"""Batches that are ready on the devices before they are asked for."""

import queue
import threading
import time
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

from dist_jax.data.pipeline import Batch

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Iterator that keeps `size` batches ready on the devices, filled by a thread of its own.

    Attributes:
        waited: seconds that `next` has waited so far.
    """

    def __init__(self, batches: Generator[Batch, None, None], put: Callable[[Batch], Item], size: int) -> None:
        """Begins to fill.

        Args:
            batches: this host's rows of every batch; closed with the prefetcher.
            put: begins a batch's transfer and gives what `next` is to give.
            size: batches kept ready, at least 1.
        """
        self.waited = 0.0
        self._batches, self._put = batches, put
        self._ready: queue.Queue = queue.Queue(maxsize=size)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> "Prefetcher[Item]":
        """Itself."""
        return self

    def __next__(self) -> Item:
        """The next batch; raises here what reading it raised."""
        if self._closed.is_set():
            raise StopIteration
        begin = time.perf_counter()
        item, error = self._ready.get()
        self.waited += time.perf_counter() - begin
        if error is not None:
            self._closed.set()
            raise error
        return item

    def close(self) -> None:
        """Ends the thread and lets go of the batches; safe to call twice."""
        self._closed.set()
        self._thread.join()
        # Now, while Python functions of the pipeline that still run can end: left to the interpreter's exit, which an
        # exception in flight may do, TensorFlow would wait for them for ever.
        self._batches.close()

    def __enter__(self) -> "Prefetcher[Item]":
        """Itself; closed at the end of the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes."""
        self.close()

    def _fill(self) -> None:
        try:
            for batch in self._batches:
                self._offer(self._put(batch), None)
                if self._closed.is_set():
                    return
            self._offer(None, StopIteration())
        except Exception as error:  # raised again where the batch is asked for
            self._offer(None, error)

    def _offer(self, item: Item | None, error: Exception | None) -> None:
        while not self._closed.is_set():
            try:
                return self._ready.put((item, error), timeout=0.1)
            except queue.Full:
                continue
