"""Class probabilities over time: windows of a video or of a live stream, with shared features of the frames."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction

import jax
import numpy as np

from dist_jax.inference.frame_feed import FeedEnd, FrameFeed, FrameSettings, SampledFrame
from dist_jax.inference.frame_store import Capacity, FrameStore
from dist_jax.inference.predictor import Predictor
from dist_jax.inference.window_grid import WindowGrid
from dist_jax.video.container import decode_from
from dist_jax.video.decoding import TIME_TOLERANCE_S
from dist_jax.video.opening import VideoError

WINDOW_BATCH = 8  # windows per call of the network
FRAME_BATCH = 8  # frames per call of the backbone
_SLOT_STEP = 16  # similar grids share compiled programs
_QUEUED_FRAMES = 32  # decoded in advance


@dataclasses.dataclass(frozen=True)
class Window:
    """Class probabilities of a part of a video."""

    start: Fraction  # seconds from the start of the file
    end: Fraction  # seconds
    probabilities: np.ndarray  # float32 [K]
    frame: np.ndarray  # pixels of the middle frame, uint8 [H, W, 3]


def make_grid(
    model: Predictor, window: Fraction, hop: Fraction | None = None, start: Fraction = Fraction(0)
) -> WindowGrid:
    """The grid of windows for a model. All times are in seconds.

    Args:
        model: from `dist_jax.load`.
        window: length of a window.
        hop: from the start of a window to the start of the next; None: an eighth of a window.
        start: of the first window, from the start of the file.

    Raises:
        UserError: `window` or `hop` is not positive, or `start` is negative.
    """
    return WindowGrid(window, window / 8 if hop is None else hop, model.num_frames, model.alpha, start)


def classify_file(
    model: Predictor,
    path: str,
    grid: WindowGrid,
    text_features: jax.Array | None = None,
    end: Fraction | None = None,
    square_pixels: bool = True,
) -> Iterator[Window]:
    """Classifies the windows of a video file in order.

    The file is decoded once. Memory does not depend on its length.

    Args:
        model: from `dist_jax.load`.
        path: a video file.
        grid: from `make_grid`.
        text_features: of K class names, float32 [K, E]. None: the model's own classes.
        end: the last window ends at or before this time, seconds from the start of the file. None: the video's end.
        square_pixels: scale the width of frames with non-square pixels.

    Yields:
        Each window that ends before the end of the video.

    Raises:
        VideoError: the video cannot be read, or is damaged; the windows before the damage come first. Or no window
          fits.
    """
    if end is not None and not grid.num_windows(end):
        raise _no_window(path, grid, float(end))
    windows = WindowAssembler(make_store(model, grid, text_features, WINDOW_BATCH, FRAME_BATCH), grid)
    yield from classify_windows(windows, path, FrameSettings(model.resolution, square_pixels), end)


def classify_windows(
    windows: "WindowAssembler", path: str, settings: FrameSettings, end: Fraction | None = None
) -> Iterator[Window]:
    """Decodes a video file once and classifies its windows. `end`, results and errors are those of `classify_file`."""
    grid = windows.grid
    points = grid.points(None if end is None else grid.num_windows(end))
    with FrameFeed(path, decode_from(path, float(grid.start)), points, settings, _QUEUED_FRAMES) as feed:
        yield from windows.classify(feed)
    if not windows.num_classified:
        raise _no_window(path, grid, windows.end_s)


def make_store(
    model: Predictor, grid: WindowGrid, text_features: jax.Array | None, window_batch: int, frame_batch: int
) -> FrameStore:
    """A store with as many slots as `window_batch` consecutive windows of the grid need."""
    slots = -(-grid.max_live(window_batch) // _SLOT_STEP) * _SLOT_STEP
    capacity = Capacity(slots, frame_batch, window_batch)
    return model.frame_store(capacity, text_features, model.eval_protocol.zero_shot_weight)


def _no_window(path: str, grid: WindowGrid, end_s: float) -> VideoError:
    return VideoError(
        f"{path}: no window of {float(grid.window):g} s fits between {float(grid.start):g} s and {end_s:g} s; use a "
        "shorter --window"
    )


class WindowAssembler:
    """Collects the frames of windows, encodes each frame once, and classifies the windows in batches.

    Args:
        store: with slots for the windows of a batch, see `make_store`.
        grid: the windows.
        probabilities: of the logits of n windows: [n, K] -> [n, K']. Default: those of `FrameStore.classify`.
    """

    def __init__(
        self, store: FrameStore, grid: WindowGrid, probabilities: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> None:
        self._store, self.grid = store, grid
        self._probabilities = probabilities
        self._pixels: dict[Fraction, np.ndarray] = {}  # of frames that a later window needs
        self._last_window: dict[Fraction, int] = {}  # of the same frames
        self._slots: dict[Fraction, int] = {}  # of encoded frames
        self._free = list(range(store.capacity.slots))
        self._next = 0  # first window that is not complete
        self._batch: list[int] = []  # complete windows
        self.num_classified = 0
        self.num_skipped = 0  # windows with dropped frames
        self.end_s = 0.0  # end of the video, after its last frame

    def classify(self, frames: Iterable[SampledFrame | FeedEnd]) -> Iterator[Window]:
        """Classifies all windows that end before the end of the video, in order.

        Raises:
            Exception: the error of the feed, after the windows before it.
        """
        for item in frames:
            if isinstance(item, FeedEnd):
                self.end_s = item.end_s
                if item.error is None and self._has_frames(self._next):
                    yield from self._complete_until(Fraction(item.end_s + TIME_TOLERANCE_S))
                yield from self._flush()
                if item.error is not None:
                    raise item.error
                return
            if item.pixels is not None:
                self._pixels[item.point.time] = item.pixels
                self._last_window[item.point.time] = item.point.last_window
            yield from self._complete_until(item.point.time)

    def _complete_until(self, position: Fraction) -> Iterator[Window]:
        """Classifies the windows that end at or before `position`, if they fill a batch."""
        while self.grid.end_of(self._next) <= position:
            if self._has_frames(self._next):
                self._batch.append(self._next)
            else:
                self.num_skipped += 1
            self._next += 1
            if len(self._batch) == self._store.capacity.window_batch:
                yield from self._flush()
            elif not self._batch:
                self._release()

    def _has_frames(self, window: int) -> bool:
        return all(time in self._pixels for time in self.grid.frame_times(window))

    def _flush(self) -> Iterator[Window]:
        """Classifies the windows of the current batch."""
        if self._batch:
            self._encode(sorted({time for window in self._batch for time in self.grid.sparse_times(window)}))
            frame_times = [self.grid.frame_times(window) for window in self._batch]
            videos = np.stack([np.stack([self._pixels[time] for time in times]) for times in frame_times])
            slots = [[self._slots[time] for time in self.grid.sparse_times(window)] for window in self._batch]
            if self._probabilities is None:
                probabilities = np.asarray(self._store.classify(videos, slots))
            else:
                probabilities = self._probabilities(np.asarray(self._store.logits(videos, slots)))
            self.num_classified += len(self._batch)
            done, self._batch = self._batch, []
            self._release()
            middle = self.grid.num_frames // 2
            for window, row, video in zip(done, probabilities, videos, strict=True):
                yield Window(self.grid.start_of(window), self.grid.end_of(window), row, video[middle].copy())

    def _encode(self, times: Sequence[Fraction]) -> None:
        """Runs the backbone on the frames that have no features yet."""
        missing = [time for time in times if time not in self._slots]
        size = self._store.capacity.frame_batch
        for batch in (missing[i : i + size] for i in range(0, len(missing), size)):
            slots = [self._free.pop() for _ in batch]
            self._store.encode(np.stack([self._pixels[time] for time in batch]), slots)
            self._slots |= dict(zip(batch, slots, strict=True))

    def _release(self) -> None:
        """Forgets the frames that no later window needs."""
        for time in [time for time, window in self._last_window.items() if window < self._next]:
            del self._pixels[time], self._last_window[time]
            if time in self._slots:
                self._free.append(self._slots.pop(time))
