"""Plots of predictions: the frames of each video next to bars of class probabilities."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from dist_jax.errors import UserError
from dist_jax.evaluation.plot_text import shorten
from dist_jax.inference.video_classifier import Prediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
PAGE_INCHES = 150  # maximum height of a page with more than one video
MAX_INCHES = 65_000 / DPI  # matplotlib draws fewer than 65,536 pixels
WIDTH_INCHES = 12
FRAMES_INCHES = 8.3  # width of the frames on a page
BAR_INCHES = 0.45  # height of a bar with its class name


class PredictionPages:
    """Plots of many videos in numbered files. A page is written when it is full, which limits the memory for frames."""

    def __init__(self, path: str) -> None:
        """`path` is the file of page 1; page n has the suffix -n."""
        self._path, self._num_pages = Path(path), 0
        self._predictions: list[Prediction] = []  # of the current page

    def add(self, prediction: Prediction) -> None:
        """Adds a video to the current page, or to a new page if the current one is full."""
        if self._predictions and sum(map(_row_inches, [*self._predictions, prediction])) > PAGE_INCHES:
            self.finish()
        self._predictions.append(prediction)

    def finish(self) -> None:
        """Writes the current page, if it has any video."""
        if self._predictions:
            self._num_pages += 1
            suffix = f"-{self._num_pages}" if self._num_pages > 1 else ""
            plot_predictions(self._predictions, str(self._path.with_stem(self._path.stem + suffix)))
            self._predictions = []


def plot_predictions(predictions: Sequence[Prediction], path: str) -> None:
    """Writes a plot with one row per video: its frames and its class probabilities.

    Raises:
        UserError: `path` has an unknown extension or cannot be written.
    """
    from matplotlib.figure import Figure  # not pyplot, which may need a display

    row_inches = [_row_inches(prediction) for prediction in predictions]
    height = 0.4 + sum(row_inches)
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    rows = figure.subplots(len(predictions), 2, squeeze=False, width_ratios=(3, 1.3), height_ratios=row_inches)
    for (left, right), prediction in zip(rows, predictions, strict=True):
        left.imshow(montage(prediction.views))
        left.set_title(f"{Path(prediction.path).name}: {prediction.views_summary}", loc="left", parse_math=False)
        left.axis("off")
        _draw_bars(right, prediction)
    save(figure, path, height, "--plot")


def save(figure: "Figure", path: str | IO[bytes], height: float, option: str) -> None:
    """Writes a figure of `height` inches to a path, or as PNG to a file.

    Raises:
        UserError: with the name of the `option`, if `path` is not possible.
    """
    try:
        figure.savefig(path, dpi=DPI * min(1, MAX_INCHES / height))
    except (ValueError, OSError) as error:
        raise UserError(f"{option} {path}: {error}") from error


def montage(views: np.ndarray, columns: int = 8, gap: int = 4) -> np.ndarray:
    """Arranges frames in a grid on white, in reading order. Each view starts a new row after a wider gap.

    Args:
        views: uint8 [V, T, H, W, 3].
        columns: maximum number of frames per row.
        gap: pixels between frames; four times as many between views.

    Returns:
        uint8 [height, width, 3].
    """
    num_views, num_frames, height, width, _ = views.shape
    columns = min(columns, num_frames)
    rows_per_view = -(-num_frames // columns)
    view_height = rows_per_view * (height + gap) + 3 * gap
    image = np.full((num_views * view_height - 4 * gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for v, view in enumerate(views):
        for t, frame in enumerate(view):
            top = v * view_height + t // columns * (height + gap)
            left = t % columns * (width + gap)
            image[top : top + height, left : left + width] = frame
    return image


def _row_inches(prediction: Prediction) -> float:
    """Height of a video's row, inches."""
    height, width, _ = montage(prediction.views).shape
    return max(FRAMES_INCHES * height / width, BAR_INCHES * len(prediction.class_names)) + 0.5


def _draw_bars(axes: "Axes", prediction: Prediction) -> None:
    positions = np.arange(len(prediction.class_names))
    axes.barh(positions, prediction.probabilities, height=0.35, color="#4269d0", align="edge")
    for position, name, p in zip(positions, prediction.class_names, prediction.probabilities, strict=True):
        label = f"{shorten(name)}  {100 * p:.1f} %"
        axes.text(0, position - 0.06, label, va="bottom", fontsize=9, parse_math=False)
    axes.set_xlim(0, 1)
    axes.set_ylim((_row_inches(prediction) - 0.5) / BAR_INCHES - 0.5, -0.5)  # the first bar is at the top of the row
    axes.axis("off")
