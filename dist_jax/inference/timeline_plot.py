"""Plot of a timeline: class probabilities over time, the segments as a band, and some frames."""

import itertools
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

import numpy as np

from dist_jax.errors import UserError
from dist_jax.evaluation.plot_text import shorten
from dist_jax.inference.timeline import Window
from dist_jax.inference.timeline_output import TimelineOutput

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_COLUMNS = 2048  # of the plot: more windows than this are averaged in groups
NUM_FRAMES = 10  # frames above the plot
NUM_CLASSES = 8  # classes with a line and a colour
LEGEND_LENGTH = 30  # characters of a class name
OTHER_COLOR = "#cccccc"


class TimelinePlot(TimelineOutput):
    """Collects a timeline in limited memory, and draws it at the end.

    Args:
        path: the image to write (.png, .pdf, .svg), or a file for a PNG.
        title: of the plot.
        class_names: K names.
    """

    def __init__(self, path: str | IO[bytes], title: str, class_names: Sequence[str]) -> None:
        self._path, self._title, self._names = path, title, class_names
        self._group = 1  # windows per column
        self._columns: list[np.ndarray] = []  # [3 + K]: number of windows, sums of start, end, probabilities
        self._frames: list[np.ndarray] = []  # of every `_frame_step`-th window
        self._frame_step, self._num_windows = 1, 0

    def add_window(self, window: Window, num_dropped: int) -> None:
        """See the base class."""
        row = np.array([1, float(window.start), float(window.end), *window.probabilities])
        if self._columns and self._columns[-1][0] < self._group:
            self._columns[-1] += row
        else:
            self._columns.append(row)
        if len(self._columns) == 2 * MAX_COLUMNS and self._columns[-1][0] == self._group:
            pairs = np.stack(self._columns).reshape(MAX_COLUMNS, 2, -1).sum(axis=1)
            self._columns, self._group = list(pairs), 2 * self._group
        if self._num_windows % self._frame_step == 0:
            self._frames.append(window.frame)
        if len(self._frames) == 2 * NUM_FRAMES:
            self._frames, self._frame_step = self._frames[::2], 2 * self._frame_step
        self._num_windows += 1

    def finish(self) -> None:
        """Writes the plot, if there was any window. Raises UserError if it cannot be written."""
        if self._columns:
            self._draw()

    def _draw(self) -> None:
        from matplotlib.figure import Figure  # not pyplot, which may need a display

        columns = np.stack(self._columns)
        starts, ends = (columns[:, 1:3] / columns[:, :1]).T
        probabilities = columns[:, 3:] / columns[:, :1]  # [n, K]
        figure = Figure(figsize=(12, 5.5), layout="constrained")
        frames, lines, band = figure.subplots(3, 1, height_ratios=(1.1, 3, 0.35))
        self._draw_frames(frames)
        colors = _class_colors(probabilities)
        centres = (starts + ends) / 2
        for k, color in colors.items():
            marker = "." if len(centres) < 20 else None
            lines.plot(centres, probabilities[:, k], color=color, label=str(k), lw=1.5, marker=marker)
        lines.set(xlim=(starts[0], ends[-1]), ylim=(0, 1.02), ylabel="probability")
        lines.grid(alpha=0.3)
        self._add_legend(lines, list(colors))
        _draw_band(band, starts, ends, probabilities.argmax(axis=1), colors)
        try:
            figure.savefig(self._path, dpi=110)
        except (ValueError, OSError) as error:
            raise UserError(f"--plot {self._path}: {error}") from error

    def _add_legend(self, lines: "Axes", classes: Sequence[int]) -> None:
        """Names the lines of the `classes`, also with "_" at the start, which matplotlib hides, and with "$"."""
        legend = lines.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9, frameon=False)
        for text, k in zip(legend.get_texts(), classes, strict=True):
            text.set_parse_math(False)
            text.set_text(shorten(self._names[k], LEGEND_LENGTH))

    def _draw_frames(self, axes: "Axes") -> None:
        frames = [np.pad(frame, ((0, 0), (2, 2), (0, 0)), constant_values=255) for frame in self._frames]
        step = -(-len(frames) // NUM_FRAMES)
        axes.imshow(np.concatenate(frames[::step], axis=1), aspect="equal")
        axes.set_title(self._title, loc="left", fontsize=10, parse_math=False)
        axes.axis("off")


def _class_colors(probabilities: np.ndarray) -> dict[int, object]:
    """Colours of the classes that are most probable in most windows, then of those with the highest probability."""
    from matplotlib import colormaps

    num_best = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    order = np.lexsort((-probabilities.max(axis=0), -num_best))[:NUM_CLASSES]
    return {int(k): colormaps["tab10"](i) for i, k in enumerate(order)}


def _draw_band(axes: "Axes", starts: np.ndarray, ends: np.ndarray, best: np.ndarray, colors: dict[int, object]) -> None:
    """A bar over time in the colour of the most probable class."""
    middles = (ends[:-1] + starts[1:]) / 2  # of the overlap of two windows
    edges = [starts[0], *middles, ends[-1]]
    changes = [0, *(np.flatnonzero(np.diff(best)) + 1), len(best)]
    for first, last in itertools.pairwise(changes):
        axes.axvspan(edges[first], edges[last], color=colors.get(int(best[first]), OTHER_COLOR), lw=0)
    axes.set(xlim=(starts[0], ends[-1]), yticks=[], xlabel="seconds", ylabel="top class")
    axes.yaxis.label.set(rotation=0, ha="right", va="center")
