"""The scores of an evaluation and the files in WORKDIR/results."""

import csv
import dataclasses
import json

import numpy as np
from etils import epath

from dist_jax.evaluation.metrics import class_accuracies, compute_metrics, confusion_matrix, top_classes
from dist_jax.files import write_text


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of n videos, ordered by record."""

    scores: np.ndarray  # float32 [n, K], softmax summed over views and crops
    labels: np.ndarray  # int32 [n]
    ids: list[str]  # n video names
    bad: dict[str, float]  # number of unreadable videos by kind (see `data.bad_records.KINDS`)


def summarize(scores: Scores) -> dict[str, float]:
    """`videos` (their number) and the metrics of `metrics.METRICS`."""
    return {"videos": len(scores.labels), **compute_metrics(scores.scores, scores.labels)}


def summary_line(summary: dict[str, float]) -> str:
    """The metrics of a summary for the terminal: "top1 95.4%, top5 100.0%"."""
    return ", ".join(f"{name} {value:.1%}" for name, value in summary.items() if name != "videos")


def write_results(file: epath.Path, scores: Scores, class_names: list[str], num_views: int, step: int) -> None:
    """Writes NAME.json (metrics, per-class accuracy, confusion matrix) and NAME.csv (the five best classes per video).

    Args:
        file: the JSON file.
        scores: of all videos.
        class_names: K names.
        num_views: V * crops.
        step: the training step of the parameters.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    confusion = confusion_matrix(scores.scores, scores.labels)
    per_class = [None if np.isnan(a) else round(float(a), 6) for a in class_accuracies(confusion)]
    report = {
        "step": step,
        "views": num_views,
        **summarize(scores),
        "class_accuracy": dict(zip(class_names, per_class, strict=True)),
        "classes": class_names,
        "confusion": confusion.tolist(),
    }
    write_text(str(file), json.dumps(report, indent=1))
    with file.with_suffix(".csv").open("w") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        count = min(5, len(class_names))
        writer.writerow(["video", "label", *(f"{part}{i + 1}" for i in range(count) for part in ("top", "score"))])
        for row, label, video in zip(scores.scores, scores.labels, scores.ids, strict=True):
            best = top_classes(row[None], count)[0]
            cells = (cell for k in best for cell in (class_names[k], f"{row[k] / num_views:.4f}"))
            writer.writerow([video, class_names[label], *cells])
