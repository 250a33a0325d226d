"""Plots of evaluations: the confused classes, the accuracy of each class, several runs as points."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from dist_jax.evaluation.plot_text import shorten
from dist_jax.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
MAX_HEAT_MAP_CLASSES = 30  # more classes: bars of the most confused pairs
NUM_PAIRS = 20  # most confused pairs that are shown
MAX_CLASS_BARS = 60  # more classes: the worst and the best of them
NUM_EXTREMES = 20  # worst classes and best classes that are shown
BAR_INCHES = 0.22  # height of a bar with its name
LABEL_INCHES = 0.2  # height of a label of a point
CHARACTER_INCHES = 0.11  # width of the widest characters of a name
TITLE_INCHES = 5.5  # minimum width of a figure
TITLE_LENGTH = 70  # characters of a line of the title
BLUE = "#4269d0"


def plot_confusion(file: epath.Path, confusion: np.ndarray, class_names: Sequence[str], title: str) -> None:
    """Writes a PNG: up to 30 classes a heat map, more classes bars of the most confused pairs.

    Args:
        file: the PNG.
        confusion: int64 [K, K], number of videos of class i (row) predicted as class j (column).
        class_names: K names.
        title: above the plot.

    Raises:
        UserError: `file` cannot be written.
    """
    draw = _heat_map if len(class_names) <= MAX_HEAT_MAP_CLASSES else _pair_bars
    save(draw(confusion, class_names, title), file)


def plot_classes(
    file: epath.Path, values: np.ndarray, counts: np.ndarray, class_names: Sequence[str], measure: str, title: str
) -> None:
    """Writes a PNG of sorted bars, one per class. Of more than 60 classes, it shows the 20 worst and the 20 best.

    Args:
        file: the PNG.
        values: float [K], 0 to 1; NaN for a class without videos, which gets no bar.
        counts: int [K], videos of each class.
        class_names: K names.
        measure: what the values are, e.g. "accuracy".
        title: above the plot.

    Raises:
        UserError: `file` cannot be written.
    """
    order = np.argsort(-values, kind="stable")  # the best class first, NaN last
    order = order[: np.count_nonzero(~np.isnan(values))]
    mean = float(values[order].mean()) if order.size else float("nan")
    lines = [title, f"{measure} of each class" + (f", mean {mean:.1%}" if order.size else "")]
    if len(order) < len(values):
        lines.append(f"{len(values) - len(order)} of {len(values)} classes have no videos")
    groups = [order]
    if len(order) > MAX_CLASS_BARS:
        lines.append(f"the {NUM_EXTREMES} best and the {NUM_EXTREMES} worst of {len(order)} classes")
        groups = [order[:NUM_EXTREMES], order[-NUM_EXTREMES:]]
    figure = _figure(8, BAR_INCHES * (sum(map(len, groups)) + len(groups)) + 1.2)
    all_axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[len(group) + 1 for group in groups])
    for axes, group in zip(all_axes[:, 0], groups, strict=True):
        texts = [f"{values[k]:.0%} (n = {counts[k]})" for k in group]
        _draw_bars(axes, [shorten(class_names[k]) for k in group], values[group], texts, limit=1.0)
        if order.size:
            axes.axvline(mean, color="0.3", linewidth=0.8, linestyle="--")
    _set_title(figure, *lines)
    save(figure, file)


def plot_points(file: epath.Path, points: Mapping[str, tuple[float, float]], x_label: str, y_label: str) -> None:
    """Writes a PNG of labelled points. The labels are a column at the right, with lines to the points.

    Args:
        file: the PNG.
        points: label -> (x, y); at least one.
        x_label: horizontal axis.
        y_label: vertical axis.

    Raises:
        UserError: `file` cannot be written.
    """
    axes_inches = max(3.5, LABEL_INCHES * len(points))
    figure = _figure(9, axes_inches + 0.8)
    axes = figure.subplots()
    names = sorted(points, key=lambda name: (points[name][1], points[name][0]))
    x, y = (np.asarray([points[name][axis] for name in names]) for axis in (0, 1))
    axes.scatter(x, y, color=BLUE, zorder=3)
    axes.margins(0.1)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    low, high = axes.get_ylim()
    heights = spread((y - low) / (high - low), LABEL_INCHES / axes_inches)
    line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "relpos": (0, 0.5)}  # to the left end of a label
    for name, point, height in zip(names, zip(x, y, strict=True), heights, strict=True):
        axes.annotate(
            shorten(name),
            point,
            xytext=(1.04, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            arrowprops=line,
            parse_math=False,
        )
    save(figure, file)


def spread(positions: np.ndarray, gap: float) -> np.ndarray:
    """Moves increasing positions [n], 0 to 1, apart to a distance of at least `gap`, which is at most 1 / n."""
    return (_push_up(positions, gap) + 1 - _push_up(1 - positions[::-1], gap)[::-1]) / 2


def _push_up(positions: np.ndarray, gap: float) -> np.ndarray:
    """As `spread`, but moves positions down only at the upper end."""
    moved = np.array(positions, np.float64)
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    moved[-1] = min(moved[-1], 1)
    for i in range(len(moved) - 2, -1, -1):
        moved[i] = min(moved[i], moved[i + 1] - gap)
    return moved


def save(figure: "Figure", file: epath.Path) -> None:
    """Writes a figure as PNG, atomically. Raises UserError if the file cannot be written."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        # matplotlib's font does not have all characters of all languages. It draws a box instead.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(content, dpi=DPI, format="png")
    write_bytes(str(file), content.getvalue())


def _figure(width: float, height: float) -> "Figure":
    """An empty figure, sizes in inches."""
    from matplotlib.figure import Figure  # not pyplot, which may need a display

    return Figure(figsize=(width, height), layout="constrained")


def _set_title(figure: "Figure", *lines: str) -> None:
    figure.suptitle("\n".join(shorten(line, TITLE_LENGTH) for line in lines), fontsize=10, parse_math=False)


def _heat_map(confusion: np.ndarray, class_names: Sequence[str], title: str) -> "Figure":
    """Percent of the videos of each true class (row). A row without videos stays empty."""
    videos = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(100 * confusion, videos, out=np.full(confusion.shape, np.nan), where=videos > 0)
    names, size = [shorten(name) for name in class_names], 1 + 0.32 * len(class_names)
    longest = max(map(len, names))
    width, height = size + CHARACTER_INCHES * longest + 2, size + 0.8 * CHARACTER_INCHES * longest + 1.2
    figure = _figure(max(width, TITLE_INCHES), height)
    _set_title(figure, title)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.5:
            color = "white" if share > 60 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=color)
    positions = range(len(names))
    axes.set_xticks(positions, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8, parse_math=False)
    axes.set_yticks(positions, names, fontsize=8, parse_math=False)
    axes.set(xlabel="predicted class", ylabel="true class")
    figure.colorbar(image, shrink=0.6).set_label("% of the videos of the true class", fontsize=8)
    return figure


def _pair_bars(confusion: np.ndarray, class_names: Sequence[str], title: str) -> "Figure":
    """The pairs of classes with most errors."""
    errors = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-errors, axis=None, kind="stable")[:NUM_PAIRS]
    pairs = [(int(row), int(column)) for row, column in zip(*np.unravel_index(order, errors.shape), strict=True)]
    pairs = [pair for pair in pairs if errors[pair]]
    figure = _figure(12, BAR_INCHES * max(len(pairs), 3) + 1.2)
    _set_title(figure, title, "most confused classes, true -> predicted" if pairs else "no video is in a wrong class")
    names = [f"{shorten(class_names[row])} -> {shorten(class_names[column])}" for row, column in pairs]
    counts = np.asarray([errors[pair] for pair in pairs])
    texts = [f"{errors[pair]} of {confusion[pair[0]].sum()}" for pair in pairs]
    _draw_bars(figure.subplots(), names, counts, texts, limit=max(counts, default=1))
    return figure


def _draw_bars(axes: "Axes", names: Sequence[str], values: np.ndarray, texts: Sequence[str], limit: float) -> None:
    """Horizontal bars, the first one at the top, with `texts` at their ends. `limit` is the largest possible value."""
    positions = range(len(names))
    axes.barh(positions, values, height=0.7, color=BLUE)
    for position, value, text in zip(positions, values, texts, strict=True):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # covers the line of the mean
        axes.text(value + 0.01 * limit, position, text, va="center", fontsize=7, bbox=box)
    axes.set_yticks(positions, names, fontsize=8, parse_math=False)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * limit)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
