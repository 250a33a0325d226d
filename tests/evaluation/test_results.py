"""The files of an evaluation: JSON, CSV, Markdown, which plots."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from dist_jax.errors import UserError
from dist_jax.evaluation.metrics import compute_metrics
from dist_jax.evaluation.results import Scores, label_text, summary_line, write_results

NAMES = ["push", "pull | drag", "lift"]
IDS = ["a.mp4", "b, c.mp4", "d.mp4"]
# Softmax scores, summed over two views.
SCORES = np.asarray([[1.5, 0.3, 0.2], [0.5, 0.9, 0.6], [0.8, 0.7, 0.5]], np.float32)
SINGLE = np.asarray([0, 1, 1], np.int32)
SEVERAL = np.asarray([[True, False, True], [False, True, False], [False, False, False]])


def write(folder: Path, labels: np.ndarray | None, plots: bool = False) -> tuple[dict, list[list[str]], str]:
    """Writes results. Returns the JSON, the rows of the CSV, and the Markdown."""
    file = epath.Path(folder) / "my run" / "results" / "val.json"
    summary = {"videos": len(IDS)} | ({} if labels is None else compute_metrics(SCORES, labels))
    write_results(file, Scores(SCORES, labels, IDS, {}), summary, NAMES, 2, 70, data="records/val@2", plots=plots)
    rows = list(csv.reader(file.with_suffix(".csv").read_text().splitlines()))
    return json.loads(file.read_text()), rows, file.with_suffix(".md").read_text()


def files(folder: Path) -> set[str]:
    return {file.name for file in (folder / "my run" / "results").iterdir()}


def test_results_with_one_label_per_video(tmp_path):
    report, rows, table = write(tmp_path, SINGLE)
    assert report == {
        "step": 70,
        "views": 2,
        "videos": 3,
        "top1": pytest.approx(2 / 3),
        "top5": 1.0,
        "mean_class_accuracy": 0.75,
        "class_accuracy": {"push": 1.0, "pull | drag": 0.5, "lift": None},
        "classes": NAMES,
        "confusion": [[1, 0, 0], [1, 1, 0], [0, 0, 0]],
    }
    assert rows == [
        ["video", "label", "top1", "score1", "top2", "score2", "top3", "score3"],
        ["a.mp4", "push", "push", "0.7500", "pull | drag", "0.1500", "lift", "0.1000"],
        ["b, c.mp4", "pull | drag", "pull | drag", "0.4500", "lift", "0.3000", "push", "0.2500"],
        ["d.mp4", "pull | drag", "push", "0.4000", "pull | drag", "0.3500", "lift", "0.2500"],
    ]
    assert table == (
        "| run    | data          | views | videos | top1  | top5   | mean_class_accuracy |\n"
        "| ------ | ------------- | ----- | ------ | ----- | ------ | ------------------- |\n"
        "| my run | records/val@2 | 2     | 3      | 66.7% | 100.0% | 75.0%               |\n"
    )


def test_results_with_several_labels_per_video(tmp_path):
    report, rows, table = write(tmp_path, SEVERAL)
    # lift: videos b (0.6), d (0.5), a (0.2), of which only a has the class.
    assert report == {
        "step": 70,
        "views": 2,
        "videos": 3,
        "mean_average_precision": pytest.approx((1 + 1 + 1 / 3) / 3),
        "class_average_precision": {"push": 1.0, "pull | drag": 1.0, "lift": pytest.approx(1 / 3, abs=1e-6)},
        "classes": NAMES,
    }
    assert [row[1] for row in rows] == ["label", "push|lift", "pull | drag", ""]
    assert "| mean_average_precision |" in table
    assert "| 77.8% " in table


def test_results_without_labels_have_no_metrics(tmp_path):
    report, rows, table = write(tmp_path, None, plots=True)
    assert report == {"step": 70, "views": 2, "videos": 3, "classes": NAMES}
    assert [row[:3] for row in rows[1:]] == [
        ["a.mp4", "", "push"],
        ["b, c.mp4", "", "pull | drag"],
        ["d.mp4", "", "push"],
    ]
    assert table.splitlines()[0] == "| run    | data          | views | videos |"
    assert files(tmp_path) == {"val.json", "val.csv", "val.md"}
    assert summary_line({"videos": 3}) == "no labels, no metrics"


def test_videos_without_any_class_have_no_average_precision(tmp_path):
    report, _, _ = write(tmp_path, np.zeros((3, 3), bool), plots=True)
    assert report["mean_average_precision"] is None  # JSON has no NaN
    assert set(report["class_average_precision"].values()) == {None}


@pytest.mark.parametrize(
    ("labels", "plots"),
    [(SINGLE, {"val_confusion.png", "val_classes.png"}), (SEVERAL, {"val_classes.png"})],
    ids=["one label", "several labels"],
)
def test_plots_are_drawn_only_on_request(tmp_path, labels, plots):
    write(tmp_path, labels)
    assert files(tmp_path) == {"val.json", "val.csv", "val.md"}
    write(tmp_path, labels, plots=True)
    assert files(tmp_path) == {"val.json", "val.csv", "val.md", *plots}


@pytest.mark.parametrize("name", ["val.json", "val.csv", "val.md", "val_confusion.png"])
def test_a_file_that_cannot_be_written_raises_an_error(tmp_path, name):
    (tmp_path / "my run" / "results" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{re.escape(name)}: cannot be written \(Is a directory\)$"):
        write(tmp_path, SINGLE, plots=True)


def test_a_folder_that_cannot_be_created_raises_an_error(tmp_path):
    (tmp_path / "my run").touch()
    with pytest.raises(UserError, match=r"results: cannot create this folder"):
        write(tmp_path, SINGLE)


@pytest.mark.parametrize("name", ["val.json", "val.csv", "val.md", "val_confusion.png"])
def test_a_new_file_replaces_the_old_one_at_once(tmp_path, name):
    """A process that has the old file open still reads all of it."""
    write(tmp_path, SINGLE, plots=True)
    file = tmp_path / "my run" / "results" / name
    old = file.read_bytes()
    with file.open("rb") as reader:
        write(tmp_path, np.asarray([2, 2, 2], np.int32), plots=True)
        assert reader.read() == old
    assert file.read_bytes() != old


def test_the_text_of_labels():
    assert [label_text(SINGLE, row, NAMES) for row in range(3)] == ["push", "pull | drag", "pull | drag"]
    assert [label_text(SEVERAL, row, NAMES) for row in range(3)] == ["push|lift", "pull | drag", ""]
    assert label_text(None, 0, NAMES) == ""
