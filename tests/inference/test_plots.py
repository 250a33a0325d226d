"""Tests of dist_jax.inference.plots: montage, pages, image sizes."""

import dataclasses

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from dist_jax.errors import UserError
from dist_jax.inference import plots
from dist_jax.inference.video_classifier import Prediction

FRAMES = np.zeros((1, 4, 8, 8, 3), np.uint8)
PREDICTION = Prediction("x.mp4", np.zeros((1, 4), int), FRAMES, ["a"], np.ones(1, np.float32))


def test_a_montage_shows_every_frame_in_reading_order():
    views = np.random.default_rng(0).integers(0, 255, (2, 5, 6, 7, 3), dtype=np.uint8)
    image = plots.montage(views, columns=3, gap=2)
    # Two rows of three frames per view, 2 pixels apart; 8 pixels (4 gaps) between views.
    assert image.shape == (2 * (6 + 2 + 6) + 8, 3 * 7 + 2 * 2, 3)
    np.testing.assert_array_equal(image[:6, :7], views[0, 0])
    np.testing.assert_array_equal(image[8:14, 9:16], views[0, 4])
    np.testing.assert_array_equal(image[22:28, 18:25], views[1, 2])
    assert (image[8:14, 18:] == 255).all()


def test_many_videos_continue_in_numbered_files(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "PAGE_INCHES", 6)  # a video needs 2.8
    pages = plots.PredictionPages(str(tmp_path / "out.png"))
    for _ in range(3):
        pages.add(PREDICTION)
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"]  # written when the second page started
    pages.finish()
    first, second = (matplotlib.image.imread(tmp_path / name).shape[0] for name in ("out.png", "out-2.png"))
    assert first > 1.7 * second


def test_a_page_above_the_maximum_height_is_scaled_down(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "MAX_INCHES", 1)
    plots.plot_predictions([PREDICTION], str(tmp_path / "out.png"))
    assert matplotlib.image.imread(tmp_path / "out.png").shape[0] <= plots.DPI + 1


def test_a_long_name_without_spaces_is_cut(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **options: figures.append(figure))
    prediction = dataclasses.replace(PREDICTION, class_names=["opening_a_very_long_name_without_any_spaces"])
    plots.plot_predictions([prediction], str(tmp_path / "out.png"))
    (text,) = (text.get_text() for axes in figures[0].axes for text in axes.texts)
    assert text == "opening_a_very_long_name_without_any ...  100.0 %"


def test_an_unknown_image_format_raises_an_error(tmp_path):
    with pytest.raises(UserError, match=r"--plot .*out\.abc"):
        plots.plot_predictions([PREDICTION], str(tmp_path / "out.abc"))
