"""Times of the windows of a timeline, and of the frames that they share. Exact: times are fractions of a second."""

import dataclasses
import heapq
import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

from dist_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class GridPoint:
    """A time at which windows need a frame, or at which a window ends."""

    time: Fraction  # seconds from the start of the file
    is_frame: bool  # False: a window ends here, and no window needs this frame
    is_sparse: bool  # the backbone sees this frame
    last_window: int  # number of the last window that needs this point


@dataclasses.dataclass(frozen=True)
class WindowGrid:
    """Windows of equal length at equal distances.

    Window j begins at start + j * hop. Its T frames are at the middles of T equal parts, as in a single test view, and
    the backbone sees every alpha-th of them, from the first on.

    Raises:
        UserError: `window` or `hop` is not positive, or `start` is negative.
    """

    window: Fraction  # length of a window, seconds
    hop: Fraction  # from the start of a window to the start of the next, seconds
    num_frames: int  # T
    alpha: int
    start: Fraction = Fraction(0)  # of window 0, seconds from the start of the file

    def __post_init__(self) -> None:
        for name in ("window", "hop"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {float(getattr(self, name)):g} s; must be greater than 0")
        if self.start < 0:
            raise UserError(f"start is {float(self.start):g} s; must not be negative")

    def start_of(self, window: int) -> Fraction:
        """Start of a window, seconds from the start of the file."""
        return self.start + window * self.hop

    def end_of(self, window: int) -> Fraction:
        """End of a window, seconds from the start of the file."""
        return self.start_of(window) + self.window

    def frame_times(self, window: int) -> list[Fraction]:
        """The T frame times of a window, increasing, in seconds from the start of the file."""
        start, part = self.start_of(window), self.window / self.num_frames
        return [start + (k + Fraction(1, 2)) * part for k in range(self.num_frames)]

    def sparse_times(self, window: int) -> list[Fraction]:
        """The S = T / alpha times of a window's frames that the backbone sees."""
        return self.frame_times(window)[:: self.alpha]

    def num_windows(self, end: Fraction) -> int:
        """Number of windows that end at or before `end` seconds."""
        return max(math.floor((end - self.start - self.window) / self.hop) + 1, 0)

    def distinct_per_hop(self) -> int:
        """Number of backbone frames per window, after the first windows: frames at equal times count once."""
        return len({time % self.hop for time in self.sparse_times(0)})

    def max_live(self, num_windows: int) -> int:
        """An upper bound of the number of distinct backbone frames of `num_windows` consecutive windows."""
        return self.distinct_per_hop() * (math.ceil(self.window / self.hop) + num_windows - 1)

    def points(self, num_windows: int | None = None) -> Iterator[GridPoint]:
        """The distinct times of all frames and ends of windows, increasing. None: of endlessly many windows."""
        windows = itertools.count() if num_windows is None else iter(range(num_windows))
        heap: list[Fraction] = []
        points: dict[Fraction, GridPoint] = {}
        next_window = next(windows, None)
        while heap or next_window is not None:
            while next_window is not None and (not heap or self.frame_times(next_window)[0] <= heap[0]):
                for point in self._points_of(next_window):
                    if point.time not in points:
                        heapq.heappush(heap, point.time)
                    points[point.time] = _merge(points.get(point.time, point), point)
                next_window = next(windows, None)
            yield points.pop(heapq.heappop(heap))

    def _points_of(self, window: int) -> Iterator[GridPoint]:
        for k, time in enumerate(self.frame_times(window)):
            yield GridPoint(time, True, k % self.alpha == 0, window)
        yield GridPoint(self.end_of(window), False, False, window)


def _merge(a: GridPoint, b: GridPoint) -> GridPoint:
    """The point of two points at the same time."""
    return GridPoint(a.time, a.is_frame or b.is_frame, a.is_sparse or b.is_sparse, max(a.last_window, b.last_window))
