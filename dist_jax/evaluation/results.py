"""The scores of an evaluation and the files in WORKDIR/results."""

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from dist_jax.evaluation import result_plots
from dist_jax.evaluation.metrics import (
    class_accuracies,
    class_average_precisions,
    confusion_matrix,
    top_classes,
)
from dist_jax.evaluation.tables import markdown_table
from dist_jax.files import make_folder, write_text

TOP_CLASSES = 5  # best classes of each video in NAME.csv


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of n videos, ordered by record."""

    scores: np.ndarray  # float64 [n, K], softmax (several labels per video: sigmoid) summed over views and crops
    labels: np.ndarray | None  # int32 [n]; several labels per video: bool [n, K]; None: the videos have no labels
    ids: list[str]  # n video names
    bad: dict[str, float]  # number of unreadable videos by kind (see `data.bad_records.KINDS`)


def is_metric(name: str) -> bool:
    """Whether an entry of a summary is a metric. The others are numbers of videos: videos, missing, unseen_videos."""
    return name != "missing" and not name.endswith("videos")


def summary_line(summary: dict[str, float]) -> str:
    """The metrics of a summary for the terminal: "top1 95.4%, top5 100.0%"."""
    metrics = ", ".join(f"{name} {value:.1%}" for name, value in summary.items() if is_metric(name))
    return metrics or "no labels, no metrics"


def write_results(
    file: epath.Path,
    scores: Scores,
    summary: Mapping[str, float],
    class_names: list[str],
    num_views: int,
    step: int,
    *,
    data: str,
    plots: bool,
) -> None:
    """Writes the files of an evaluation, each atomically. NAME is the name of `file` without ".json".

    - NAME.json: metrics; per class the accuracy (several labels per video: average precision); confusion matrix.
    - NAME.csv: label and five best classes of every video.
    - NAME.md: the metrics as a row of a Markdown table.
    - NAME_confusion.png, NAME_classes.png: if `plots` and there are labels. Several labels per video have no confusion.

    Args:
        file: the JSON file, in the folder `results` of a workdir.
        scores: of all videos, n > 0.
        summary: `videos` (their number) and metrics. With splits, these are means over the splits.
        class_names: K names.
        num_views: V * crops.
        step: the training step of the parameters.
        data: the evaluated data, e.g. the value of config.data.val; a cell of NAME.md.
        plots: whether to draw. Drawing takes seconds: evaluations during a training do not.

    Raises:
        UserError: a file cannot be written.
    """
    make_folder(str(file.parent))
    statistics = _class_statistics(scores, class_names)
    report = {"step": step, "views": num_views} | _without_nan(dict(summary)) | statistics
    write_text(str(file), json.dumps(report, indent=1))
    _write_csv(file.with_suffix(".csv"), scores, class_names, num_views)
    run = os.path.basename(os.path.abspath(file.parent.parent))
    write_text(str(file.with_suffix(".md")), _table_row(run, data, num_views, summary))
    if plots and scores.labels is not None:
        title = f"{file.stem}, step {step}, {len(scores.scores)} videos: {run}"
        _draw(file, scores.labels, statistics, title)


def label_text(labels: np.ndarray | None, row: int, class_names: Sequence[str]) -> str:
    """The label of video `row`; several are joined by "|"; without labels empty. For `labels` see `Scores`."""
    if labels is None:
        return ""
    classes = [labels[row]] if labels.ndim == 1 else np.flatnonzero(labels[row])
    return "|".join(class_names[int(k)] for k in classes)


def _class_statistics(scores: Scores, class_names: list[str]) -> dict[str, Any]:
    """The entries of NAME.json about classes."""
    if scores.labels is None:
        return {"classes": class_names}
    if scores.labels.ndim == 2:
        precisions = class_average_precisions(scores.scores, scores.labels)
        return {"class_average_precision": _by_class(precisions, class_names), "classes": class_names}
    confusion = confusion_matrix(scores.scores, scores.labels)
    return {
        "class_accuracy": _by_class(class_accuracies(confusion), class_names),
        "classes": class_names,
        "confusion": confusion.tolist(),
    }


def _by_class(values: np.ndarray, class_names: list[str]) -> dict[str, float | None]:
    """Class name -> value, None for NaN."""
    rounded = (round(float(value), 6) for value in values)
    return _without_nan(dict(zip(class_names, rounded, strict=True)))


def _without_nan(values: dict[str, float]) -> dict[str, float | None]:
    """The values with None for NaN, which JSON does not have."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _write_csv(file: epath.Path, scores: Scores, class_names: list[str], num_views: int) -> None:
    count = min(TOP_CLASSES, len(class_names))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "label", *(f"{part}{i + 1}" for i in range(count) for part in ("top", "score"))])
    best = top_classes(scores.scores, count)
    for row, video in enumerate(scores.ids):
        pairs = ((class_names[k], f"{scores.scores[row, k] / num_views:.4f}") for k in best[row])
        label = label_text(scores.labels, row, class_names)
        writer.writerow([video, label, *(cell for pair in pairs for cell in pair)])
    write_text(str(file), text.getvalue())


def _table_row(run: str, data: str, num_views: int, summary: Mapping[str, float]) -> str:
    cells = {name: f"{value:.1%}" if is_metric(name) else str(value) for name, value in summary.items()}
    cells = {"run": run, "data": data, "views": str(num_views)} | cells
    return markdown_table(list(cells), [list(cells.values())])


def _draw(file: epath.Path, labels: np.ndarray, statistics: dict[str, Any], title: str) -> None:
    names = statistics["classes"]
    if labels.ndim == 1:
        confusion = np.asarray(statistics["confusion"])
        result_plots.plot_confusion(file.with_name(f"{file.stem}_confusion.png"), confusion, names, title)
        name, counts = "class_accuracy", confusion.sum(axis=1)
    else:
        name, counts = "class_average_precision", labels.sum(axis=0)
    values = np.asarray([statistics[name][k] for k in names], np.float64)  # None becomes NaN
    measure = name.removeprefix("class_").replace("_", " ")
    result_plots.plot_classes(file.with_name(f"{file.stem}_classes.png"), values, counts, names, measure, title)
