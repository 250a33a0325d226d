"""Accuracies from the scores of whole videos; NumPy, exact counts."""

import numpy as np


def top_classes(scores: np.ndarray, count: int) -> np.ndarray:
    """Scores [n, K] -> the `count` best classes of each [n, count], best first; of equals the lower number first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def confusion_matrix(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Scores [n, K] and labels [n] -> int64 [K, K], how often class i (row) was taken for class j (column)."""
    classes = scores.shape[1]
    predicted = top_classes(scores, 1)[:, 0]
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def accuracies(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores [n, K] and labels [n], n > 0 -> top1, top5 and mean_class_accuracy (over classes that occur), 0 to 1."""
    hits = top_classes(scores, 5) == labels[:, None]  # [n, 5]
    per_class = class_accuracies(confusion_matrix(scores, labels))
    return {
        "top1": float(hits[:, 0].mean()),
        "top5": float(hits.any(axis=1).mean()),
        "mean_class_accuracy": float(np.nanmean(per_class)),
    }


def class_accuracies(confusion: np.ndarray) -> np.ndarray:
    """Confusion [K, K] -> float64 [K], share of each class's videos that were recognised; NaN where there are none."""
    videos = confusion.sum(axis=1)
    return np.divide(confusion.diagonal(), videos, out=np.full(len(videos), np.nan), where=videos > 0)
