"""Classification of a live stream: one window per hop, as it comes."""

import itertools
from collections.abc import Iterator

import jax

from dist_jax.inference.frame_feed import FrameFeed, FrameSettings
from dist_jax.inference.predictor import Predictor
from dist_jax.inference.timeline import Window, WindowAssembler, make_store
from dist_jax.inference.window_grid import WindowGrid
from dist_jax.video.container import decode_live


class LiveStream:
    """A live stream and the windows that it is classified in.

    If the device is slower than the stream, frames are dropped and counted. The windows that need them are skipped and
    counted. The frames between two drops are enough for at least one window.

    Args:
        model: from `dist_jax.load`.
        name: a URL, a device, a file or a pipe; "-": standard input. See `video.opening.open_live`.
        grid: from `timeline.make_grid`; times count from the start of the stream.
        text_features: of K class names, float32 [K, E]. None: the model's own classes.
        timeout_s: maximum time without a frame, seconds.
        square_pixels: scale the width of frames with non-square pixels.
    """

    def __init__(
        self,
        model: Predictor,
        name: str,
        grid: WindowGrid,
        text_features: jax.Array | None,
        timeout_s: float,
        square_pixels: bool = True,
    ) -> None:
        frame_batch = min(grid.distinct_per_hop(), grid.num_frames // grid.alpha)
        self._store = make_store(model, grid, text_features, 1, frame_batch)
        self._windows = WindowAssembler(self._store, grid)
        settings = FrameSettings(model.resolution, square_pixels)
        frames = decode_live(name, timeout_s)
        self._feed = FrameFeed(name, frames, grid.points(), settings, queue_length(grid), True, timeout_s)

    @property
    def num_dropped(self) -> int:
        """Frames that windows need and that were dropped so far."""
        return self._feed.num_dropped

    @property
    def summary(self) -> str:
        """For example "12 windows; 0 frames dropped, 0 windows skipped"."""
        done, skipped = self._windows.num_classified, self._windows.num_skipped
        return f"{done} windows; {self.num_dropped} frames dropped, {skipped} windows skipped"

    def windows(self) -> Iterator[Window]:
        """The windows of the stream until it ends. Compiles before it opens the stream.

        Raises:
            VideoError: the stream cannot be opened, is damaged, or stalls; after the windows before that.
        """
        self._store.compile()
        with self._feed as feed:
            yield from self._windows.classify(feed)


def queue_length(grid: WindowGrid) -> int:
    """Number of points in a window and two hops: any so many consecutive points contain a whole window."""
    end = grid.end_of(2)
    return sum(1 for _ in itertools.takewhile(lambda point: point.time <= end, grid.points()))
