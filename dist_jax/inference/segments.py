"""Segments of a timeline: consecutive windows with the same most probable class."""

import dataclasses
from fractions import Fraction

from dist_jax.inference.timeline import Window
from dist_jax.inference.window_grid import WindowGrid


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of a video with one most probable class."""

    start: Fraction  # seconds from the start of the file
    end: Fraction  # seconds
    label: int  # class number
    probability: float  # of the class, mean over the windows
    num_windows: int


class SegmentMerger:
    """Merges windows as they come.

    The first segment begins with its first window, the last one ends with its last window. Overlapping windows of two
    segments are divided in the middle of their overlap, so that segments do not overlap.
    """

    def __init__(self, grid: WindowGrid) -> None:
        self._margin = max(grid.window - grid.hop, Fraction(0)) / 2
        self._current: Segment | None = None

    def add(self, window: Window) -> Segment | None:
        """Adds the next window. Returns the previous segment if the window begins a new one."""
        label = int(window.probabilities.argmax())
        probability = float(window.probabilities[label])
        previous = self._current
        if previous is not None and previous.label == label:
            count = previous.num_windows
            mean = (previous.probability * count + probability) / (count + 1)
            self._current = Segment(previous.start, window.end, label, mean, count + 1)
            return None
        start = window.start
        if previous is not None and window.start < previous.end:
            previous = dataclasses.replace(previous, end=previous.end - self._margin)
            start += self._margin
        self._current = Segment(start, window.end, label, probability, 1)
        return previous

    def finish(self) -> Segment | None:
        """Returns the last segment; None: there were no windows."""
        last, self._current = self._current, None
        return last
