"""Transfers batches to the devices in a background thread, ahead of their use."""

import queue
import threading
import time
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

from dist_jax.data.pipeline import Batch

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Iterator that keeps up to `size` batches on the devices. A background thread reads them.

    Attributes:
        waited: total seconds that `next` has waited for a batch.
    """

    def __init__(self, batches: Generator[Batch, None, None], put: Callable[[Batch], Item], size: int) -> None:
        """Starts the thread.

        Args:
            batches: this host's rows of every batch; closed together with the prefetcher.
            put: starts a batch's transfer and returns what `next` returns.
            size: number of batches on the devices that `next` has not returned, at least 1.
        """
        self.waited = 0.0
        self._batches, self._put = batches, put
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._room = threading.Semaphore(size)  # batches that may still go to the devices
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
        self._room.release()
        return item

    def close(self) -> None:
        """Stops the thread and closes the batches. Waits for clips that are being read. Can be called twice."""
        self._closed.set()
        self._room.release()  # the thread may wait for it
        self._thread.join()
        self._batches.close()  # stops the threads of the pipeline

    def __enter__(self) -> "Prefetcher[Item]":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _fill_queue(self) -> None:
        try:
            for batch in self._batches:
                self._room.acquire()
                if self._closed.is_set():
                    return
                self._queue.put((self._put(batch), None))
            self._queue.put((None, StopIteration()))
        except BaseException as error:  # raised again in __next__, which would wait forever otherwise
            self._queue.put((None, error))
