"""Metrics of video scores, in NumPy, and the tables of the metrics that an evaluation reports."""

from collections.abc import Callable

import numpy as np

from dist_jax.errors import DivergedError


def top_classes(scores: np.ndarray, num_classes: int) -> np.ndarray:
    """Scores [n, K] -> the `num_classes` best classes of each video [n, num_classes], best first.

    Equal scores are ordered by class number.
    """
    return np.argsort(-scores, axis=1, kind="stable")[:, :num_classes]


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of videos, 0 to 1, with the label among the `k` best classes. Scores [n, K], labels [n], n > 0."""
    return float((top_classes(scores, k) == labels[:, None]).any(axis=1).mean())


def mean_class_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy per class, averaged over the classes that have videos, 0 to 1. Scores [n, K], labels [n], n > 0."""
    return float(np.nanmean(class_accuracies(confusion_matrix(scores, labels))))


def confusion_matrix(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Scores [n, K] and labels [n] -> int64 [K, K]: number of videos of class i (row) predicted as class j (column)."""
    num_classes = scores.shape[1]
    predicted = top_classes(scores, 1)[:, 0]
    return np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_accuracies(confusion: np.ndarray) -> np.ndarray:
    """Confusion matrix [K, K] -> float64 [K]: share of correct videos of each class; NaN for a class without videos."""
    videos = confusion.sum(axis=1)
    return np.divide(confusion.diagonal(), videos, out=np.full(len(videos), np.nan), where=videos > 0)


def class_average_precisions(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Area under each class's steps of precision over recall, as scikit-learn's `average_precision_score`.

    Videos with equal scores share one threshold: their order does not matter.

    Args:
        scores: float [n, K], higher for more likely, n > 0.
        labels: bool [n, K], whether a video has a class.

    Returns:
        float64 [K], 0 to 1; NaN for a class that no video has.
    """
    return np.asarray([_average_precision(*columns) for columns in zip(scores.T, labels.T, strict=True)], np.float64)


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean of `class_average_precisions` over the classes that any video has, 0 to 1; NaN if no video has a class."""
    precisions = class_average_precisions(scores, labels)
    known = precisions[~np.isnan(precisions)]
    return float(known.mean()) if known.size else float("nan")


def _average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Scores [n] and positive videos bool [n] -> average precision; NaN without positive videos."""
    if not positive.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # the last video of each distinct score
    hits = np.cumsum(positive[order])[ends]
    return float(np.sum(np.diff(hits, prepend=0) * hits / (ends + 1)) / hits[-1])


# Name -> function of scores float64 [n, K] (softmax summed over views) and labels int32 [n]. Larger is better. Every
# metric is logged as eval_NAME, written to results/*.json, and may be checkpoint.best_metric.
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "top1": lambda scores, labels: top_k_accuracy(scores, labels, 1),
    "top5": lambda scores, labels: top_k_accuracy(scores, labels, 5),
    "mean_class_accuracy": mean_class_accuracy,
}

# As METRICS, for videos with any number of classes (data.multi_label): labels bool [n, K].
MULTI_LABEL_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mean_average_precision": mean_average_precision,
}


def compute_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Every metric of METRICS for labels int32 [n], of MULTI_LABEL_METRICS for labels bool [n, K].

    Scores are float64 [n, K], n > 0.

    Raises:
        DivergedError: a score is NaN or infinite. Its rank among the classes would mean nothing.
    """
    num_invalid = int(np.count_nonzero(~np.isfinite(scores).all(axis=1)))
    if num_invalid:
        raise DivergedError(f"the scores of {num_invalid} of {len(scores)} videos are NaN or infinite")
    table = METRICS if labels.ndim == 1 else MULTI_LABEL_METRICS
    return {name: metric(scores, labels) for name, metric in table.items()}
