"""Runs the work of requests in threads, with a limited number of requests in the server."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dist_jax.serving.limits import RequestError

Result = TypeVar("Result")

NUM_WORKERS = 4  # videos that are decoded at the same time; their clips share batches


class Stopped(Exception):
    """The client disconnected, or the server stops: the rest of the job is not needed."""


class JobQueue:
    """Admits requests, and runs their jobs. All methods except the jobs run in the event loop.

    Args:
        max_requests: admitted requests at the same time.
    """

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self._num_requests = 0
        self._stops: set[threading.Event] = set()
        self._clip_workers = ThreadPoolExecutor(NUM_WORKERS, "clips")
        self._timeline_worker = ThreadPoolExecutor(1, "timeline")  # one frame store: one timeline at a time

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Counts a request. Raises RequestError (status 503) if there are too many."""
        if self._num_requests >= self._max_requests:
            raise RequestError(503, f"the server already has {self._num_requests} requests; try again in some seconds")
        self._num_requests += 1
        try:
            yield
        finally:
            self._num_requests -= 1

    async def run(self, job: Callable[[threading.Event], Result], is_timeline: bool = False) -> Result:
        """Runs a job in a thread.

        If this task is cancelled, a waiting job is removed. A running job gets its event, and this method returns after
        its end, so that the caller can remove the job's files.

        Args:
            job: function of an event; long jobs raise Stopped when the event is set.
            is_timeline: use the thread of timelines.
        """
        stop = threading.Event()
        pool = self._timeline_worker if is_timeline else self._clip_workers
        future = pool.submit(job, stop)
        waiter = asyncio.wrap_future(future)
        self._stops.add(stop)
        try:
            return await asyncio.shield(waiter)
        except asyncio.CancelledError:
            stop.set()
            if not future.cancel():
                await asyncio.wait([waiter])
                if not waiter.cancelled():
                    waiter.exception()  # asyncio logs exceptions that nobody reads
            raise
        finally:
            self._stops.discard(stop)

    def close(self) -> None:
        """Stops all jobs, and returns after the end of the running ones."""
        for stop in self._stops:
            stop.set()
        for pool in (self._clip_workers, self._timeline_worker):
            pool.shutdown(cancel_futures=True)
