"""Joins the clips of several requests to batches of a few fixed sizes, so that the device program never recompiles."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np

from dist_jax.errors import UserError

Score = Callable[[np.ndarray], np.ndarray]  # clips uint8 [n, T, H, W, 3] -> float32 [n, D]


def batch_sizes(clips_per_video: int, max_batch: int) -> tuple[int, ...]:
    """The numbers of clips that the device computes at once, increasing.

    Powers of two from the first one that holds a video, and `max_batch`: a lone video is padded by less than itself.
    """
    if max_batch < 1:
        raise UserError(f"--max-batch {max_batch}: must be at least 1")
    size = 1
    while size < clips_per_video:
        size *= 2
    sizes = []
    while size < max_batch:
        sizes.append(size)
        size *= 2
    return (*sizes, max_batch)


class Batcher:
    """A thread that runs `score` on batches of clips. Requests that wait at the same time share a batch.

    A batch starts as soon as the device is free; the batcher does not wait for more clips.

    Args:
        score: clips uint8 [n, T, H, W, 3] -> float32 [n, D], row by row. Only this thread calls
          it, with n in `sizes`.
        sizes: allowed numbers of clips, increasing; the last one is the largest batch.

    Attributes:
        is_closed: no requests are accepted.
    """

    def __init__(self, score: Score, sizes: Sequence[int]) -> None:
        self._score, self._sizes = score, tuple(sizes)
        self._waiting: deque[_Clip] = deque()
        self._changed = threading.Condition()
        self.is_closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, clips: np.ndarray) -> "Future[np.ndarray]":
        """Adds the clips of a request, uint8 [n, T, H, W, 3], n >= 1. Returns the future of float32 [n, D].

        The future has the exception of `score` if it fails. Clips of a cancelled future are skipped.
        """
        request = _Request(len(clips))
        with self._changed:
            if self.is_closed:
                raise RuntimeError("the batcher is closed")
            self._waiting.extend(_Clip(request, row, clip) for row, clip in enumerate(clips))
            self._changed.notify()
        return request.future

    def close(self) -> None:
        """Ends the thread after the batch that runs. Requests that wait are cancelled."""
        with self._changed:
            self.is_closed = True
            self._changed.notify()
        self._thread.join()
        for clip in self._waiting:
            clip.request.future.cancel()
        self._waiting.clear()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._compute(batch)

    def _next_batch(self) -> "list[_Clip]":
        """Waits for clips. Returns at most the largest batch; empty: the batcher is closed."""
        with self._changed:
            batch: list[_Clip] = []
            while not batch:
                self._changed.wait_for(lambda: self._waiting or self.is_closed)
                if self.is_closed:
                    break
                while self._waiting and len(batch) < self._sizes[-1]:
                    clip = self._waiting.popleft()
                    if not clip.request.future.done():  # cancelled, or failed in an earlier batch
                        batch.append(clip)
            return batch

    def _compute(self, batch: "list[_Clip]") -> None:
        size = next(size for size in self._sizes if size >= len(batch))
        videos = np.zeros((size, *batch[0].pixels.shape), np.uint8)
        videos[: len(batch)] = [clip.pixels for clip in batch]
        try:
            rows = np.asarray(self._score(videos))
        except Exception as error:
            for request in {clip.request for clip in batch}:
                request.fail(error)
        else:
            for clip, row in zip(batch, rows, strict=False):
                clip.request.add(clip.row, row)


class _Request:
    """The results of a request, row by row. Only the thread of the batcher uses it after `submit`."""

    def __init__(self, num_clips: int) -> None:
        self.future: Future[np.ndarray] = Future()
        self._rows: list[np.ndarray | None] = [None] * num_clips
        self._num_missing = num_clips

    def add(self, row: int, result: np.ndarray) -> None:
        self._rows[row] = result
        self._num_missing -= 1
        if not self._num_missing and self.future.set_running_or_notify_cancel():
            self.future.set_result(np.stack([row for row in self._rows if row is not None]))

    def fail(self, error: Exception) -> None:
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class _Clip(NamedTuple):
    request: _Request
    row: int  # in the request
    pixels: np.ndarray  # uint8 [T, H, W, 3]
