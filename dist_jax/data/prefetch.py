"""Transfers batches to the devices in a background thread, ahead of their use."""

import queue
import threading
import time
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

from dist_jax.data.pipeline import Batch

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Iterator that keeps `size` batches ready on the devices. A background thread reads them.

    Attributes:
        waited: total seconds that `next` has waited for a batch.
    """

    def __init__(self, batches: Generator[Batch, None, None], put: Callable[[Batch], Item], size: int) -> None:
        """Starts the thread.

        Args:
            batches: this host's rows of every batch; closed together with the prefetcher.
            put: starts a batch's transfer and returns what `next` returns.
            size: number of batches kept ready, at least 1.
        """
        self.waited = 0.0
        self._batches, self._put = batches, put
        self._queue: queue.Queue = queue.Queue(maxsize=size)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill_queue, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> "Prefetcher[Item]":
        return self

    def __next__(self) -> Item:
        """The next batch. Re-raises errors of the thread."""
        if self._closed.is_set():
            raise StopIteration
        start = time.perf_counter()
        item, error = self._queue.get()
        self.waited += time.perf_counter() - start
        if error is not None:
            self._closed.set()
            raise error
        return item

    def close(self) -> None:
        """Stops the thread and closes the batches. Waits for clips that are being read. Can be called twice."""
        self._closed.set()
        self._thread.join()
        self._batches.close()  # stops the threads of the pipeline

    def __enter__(self) -> "Prefetcher[Item]":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _fill_queue(self) -> None:
        try:
            for batch in self._batches:
                self._enqueue(self._put(batch), None)
                if self._closed.is_set():
                    return
            self._enqueue(None, StopIteration())
        except Exception as error:  # raised again in __next__
            self._enqueue(None, error)

    def _enqueue(self, item: Item | None, error: Exception | None) -> None:
        while not self._closed.is_set():
            try:
                return self._queue.put((item, error), timeout=0.1)
            except queue.Full:
                continue
