"""Decodes a video in a thread, and hands over the cropped frames that windows need."""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from types import TracebackType
from typing import NamedTuple

import numpy as np

from dist_jax.inference.video_classifier import decoded_short_side
from dist_jax.inference.window_grid import GridPoint
from dist_jax.video.container import DecodedFrame
from dist_jax.video.eval_views import short_side_crops
from dist_jax.video.frame_sampler import FrameSampler
from dist_jax.video.opening import VideoError
from dist_jax.video.rgb_converter import RgbConverter


class SampledFrame(NamedTuple):
    """A point of the grid that the video has reached."""

    point: GridPoint
    pixels: np.ndarray | None  # uint8 [H, W, 3]; None: no window needs this frame


class FeedEnd(NamedTuple):
    """The last item of a feed."""

    end_s: float  # end of the last decoded frame, seconds from the start of the file
    error: Exception | None  # why decoding stopped; None: the video or the grid has ended


class FrameSettings(NamedTuple):
    """How decoded frames become the model's pixels."""

    resolution: int  # height and width, pixels
    square_pixels: bool  # scale the width of frames with non-square pixels


class FrameFeed:
    """A bounded queue of sampled frames, filled by a thread. Use it as a context manager.

    Args:
        name: of the video, for messages.
        frames: decoded frames, increasing in time; the thread iterates over them.
        points: the times to sample.
        settings: of the frames.
        capacity: maximum number of sampled frames in the queue.
        drop: what happens if the queue is full. False: decoding waits. True (live): it waits while it is ahead of real
          time, as for a stream from a file. Then frames are dropped until the queue is empty, so that the frames
          between two drops are consecutive.
        stall_s: maximum time without a decoded frame, seconds; None: no limit.
    """

    def __init__(
        self,
        name: str,
        frames: Iterable[DecodedFrame],
        points: Iterable[GridPoint],
        settings: FrameSettings,
        capacity: int,
        drop: bool = False,
        stall_s: float | None = None,
    ) -> None:
        self._name, self._frames, self._points, self._settings = name, frames, points, settings
        self._capacity, self._drop, self._stall_s = capacity, drop, stall_s
        self._changed = threading.Condition()
        self._items: deque[SampledFrame | FeedEnd] = deque()
        self._is_closed, self._is_dropping, self._num_dropped = False, False, 0
        self._last_activity = time.monotonic()
        self._stream_start: float | None = None  # when time 0 of the stream was, by time.monotonic()
        self._thread = threading.Thread(target=self._fill, name="frame feed", daemon=True)

    @property
    def num_dropped(self) -> int:
        """Number of frames that windows need and that were dropped so far."""
        return self._num_dropped

    def __enter__(self) -> "FrameFeed":
        self._last_activity = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._stall_s is None:
            self._thread.join()  # the thread of a stream may wait for its next byte

    def __iter__(self) -> Iterator[SampledFrame | FeedEnd]:
        """The sampled frames, then one `FeedEnd`. A stalled stream ends with an error."""
        while True:
            item = self._get()
            yield item
            if isinstance(item, FeedEnd):
                return

    def _get(self) -> SampledFrame | FeedEnd:
        with self._changed:
            while not self._items:
                wait_s = None if self._stall_s is None else self._last_activity + self._stall_s - time.monotonic()
                if wait_s is not None and wait_s <= 0:
                    stalled = VideoError(f"{self._name}: no frame for {self._stall_s:g} s; the stream has stalled")
                    return FeedEnd(-1.0, stalled)
                self._changed.wait(wait_s)
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def _fill(self) -> None:
        """Runs in the thread."""
        sampler = FrameSampler(self._watch(self._frames))
        error: Exception | None = None
        try:
            self._sample(sampler)
            if not sampler.has_frames:
                error = VideoError(f"{self._name}: no frame can be decoded; remove or replace the file")
        except Exception as reason:  # the reader of the feed raises it
            error = reason
        with self._changed:
            self._items.append(FeedEnd(sampler.end_s, error))
            self._changed.notify_all()

    def _sample(self, sampler: FrameSampler) -> None:
        to_rgb: RgbConverter | None = None
        pending: deque[GridPoint] = deque()
        for frame in sampler.at(_times(self._points, pending)):
            point = pending.popleft()
            if not self._has_room(point):
                continue
            pixels = None
            if point.is_frame:
                short_side = decoded_short_side(self._settings.resolution)
                to_rgb = to_rgb or RgbConverter(self._name, frame.geometry, short_side, self._settings.square_pixels)
                pixels = short_side_crops(to_rgb(frame.frame)[None], self._settings.resolution, 1)[0, 0]
            with self._changed:
                self._items.append(SampledFrame(point, pixels))
                self._changed.notify_all()

    def _watch(self, frames: Iterable[DecodedFrame]) -> Iterator[DecodedFrame]:
        for frame in frames:
            with self._changed:
                if self._is_closed:
                    return
                self._last_activity = time.monotonic()
            yield frame

    def _has_room(self, point: GridPoint) -> bool:
        """Waits until the queue has room. False: the frame is dropped, or the feed is closed."""
        with self._changed:
            if not self._drop:
                self._changed.wait_for(lambda: self._is_closed or len(self._items) < self._capacity)
                return not self._is_closed
            if self._stream_start is None:
                self._stream_start = time.monotonic() - float(point.time)
            ahead_s = self._stream_start + float(point.time) - time.monotonic()
            has_room = self._changed.wait_for(self._can_continue, max(ahead_s, 0))
            self._is_dropping = not has_room
            self._num_dropped += not has_room and point.is_frame
            return has_room and not self._is_closed

    def _can_continue(self) -> bool:
        limit = 1 if self._is_dropping else self._capacity
        return self._is_closed or len(self._items) < limit


def _times(points: Iterable[GridPoint], pending: deque[GridPoint]) -> Iterator[Fraction]:
    """The times of the points, which it also appends to `pending`."""
    for point in points:
        pending.append(point)
        yield point.time
