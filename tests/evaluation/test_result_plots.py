"""Plots of an evaluation: which classes they show, and how many of them."""

import itertools

import hypothesis
import matplotlib.image
import numpy as np
import pytest
from etils import epath
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from dist_jax.evaluation import result_plots


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures instead of PNG files."""
    figures = []
    monkeypatch.setattr(result_plots, "save", lambda figure, file: figures.append(figure))
    return figures


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def tick_labels(figure: Figure) -> list[list[str]]:
    """Names on the vertical axis of each plot, from the top."""
    return [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes]


def names(count: int) -> list[str]:
    return [f"class {k}" for k in range(count)]


def test_a_heat_map_shows_percentages_of_the_true_class(figures):
    confusion = np.asarray([[3, 1, 0], [0, 0, 0], [0, 5, 5]])
    result_plots.plot_confusion(None, confusion, ["a", "b", "c"], "val, step 3")
    image = figures[0].axes[0].images[0].get_array()
    np.testing.assert_array_equal(np.ma.filled(image, -1), [[75, 25, 0], [-1, -1, -1], [0, 50, 50]])
    assert tick_labels(figures[0])[0] == ["a", "b", "c"]
    assert [text for text in texts(figures[0]) if text in ("75", "25", "50")] == ["75", "25", "50", "50"]


def test_more_than_30_classes_become_the_most_confused_pairs(figures):
    confusion = 9 * np.eye(31, dtype=int)
    confusion[3, 7], confusion[7, 3], confusion[5, 0] = 2, 6, 4
    result_plots.plot_confusion(None, confusion, names(31), "val, step 3")
    assert tick_labels(figures[0]) == [["class 7 -> class 3", "class 5 -> class 0", "class 3 -> class 7"]]
    assert [text for text in texts(figures[0]) if " of " in text] == ["6 of 15", "4 of 13", "2 of 11"]


def test_at_most_20_pairs_are_shown(figures):
    result_plots.plot_confusion(None, np.arange(31 * 31).reshape(31, 31), names(31), "val, step 3")
    (shown,) = tick_labels(figures[0])
    assert len(shown) == 20
    assert shown[:2] == ["class 30 -> class 29", "class 30 -> class 28"]  # 30 -> 30 is correct


def test_without_confused_pairs_the_title_says_so(figures):
    result_plots.plot_confusion(None, np.eye(31, dtype=int), names(31), "val, step 3")
    assert "val, step 3\nno video is in a wrong class" in texts(figures[0])


def test_classes_are_sorted_and_those_without_videos_are_counted(figures):
    values, counts = np.asarray([0.5, np.nan, 1.0, 0.5]), np.asarray([2, 0, 7, 4])
    result_plots.plot_classes(None, values, counts, names(4), "accuracy", "val, step 3")
    assert tick_labels(figures[0]) == [["class 2", "class 0", "class 3"]]
    assert [text for text in texts(figures[0]) if "(n = " in text] == ["100% (n = 7)", "50% (n = 2)", "50% (n = 4)"]
    title = "val, step 3\naccuracy of each class, mean 66.7%\n1 of 4 classes have no videos"
    assert title in texts(figures[0])


@pytest.mark.parametrize(("count", "groups"), [(60, [60]), (61, [20, 20])])
def test_of_many_classes_the_best_and_the_worst_are_shown(figures, count, groups):
    values = np.linspace(0, 1, count)
    result_plots.plot_classes(None, values, np.ones(count, int), names(count), "accuracy", "val, step 3")
    shown = tick_labels(figures[0])
    assert list(map(len, shown)) == groups
    assert (shown[0][0], shown[-1][-1]) == (f"class {count - 1}", "class 0")


@pytest.mark.parametrize("count", [1, 31])
@pytest.mark.parametrize("character", ["x$_$", "\N{CJK UNIFIED IDEOGRAPH-52A8}"])
def test_long_and_foreign_names_and_no_videos_draw_without_warnings(tmp_path, count, character):
    confusion = np.eye(count, k=1, dtype=int)
    class_names = [f"{k} {60 * character}" for k in range(count)]
    file = epath.Path(tmp_path) / "confusion.png"
    result_plots.plot_confusion(file, confusion, class_names, 99 * character)
    assert matplotlib.image.imread(file).shape[1] >= result_plots.TITLE_INCHES * result_plots.DPI
    values = np.full(count, np.nan)
    result_plots.plot_classes(file, values, np.zeros(count, int), class_names, "accuracy", "val, step 3")


@hypothesis.settings(max_examples=100, derandomize=True)
@hypothesis.given(st.lists(st.floats(0, 1), min_size=1, max_size=9).map(sorted))
def test_labels_keep_their_order_and_distance_and_stay_inside(positions):
    gap = 0.1
    moved = result_plots.spread(np.asarray(positions), gap)
    assert (np.diff(moved) >= gap - 1e-9).all()
    assert moved.min() >= -1e-9
    assert moved.max() <= 1 + 1e-9
    if (np.diff(positions) >= gap).all():
        np.testing.assert_allclose(moved, positions, atol=1e-9)


def test_every_point_has_its_label(figures):
    points = {f"run {k}": (300 + k // 2, 80 + k // 4) for k in range(12)}  # several at the same place
    result_plots.plot_points(None, points, "GFLOPs", "top1")
    (axes,) = figures[0].axes
    assert {text.get_text(): tuple(text.xy) for text in axes.texts} == points
    figures[0].draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the line
    ends = sorted((box.y0, box.y1) for box in boxes)
    assert all(lower[1] <= upper[0] for lower, upper in itertools.pairwise(ends))
