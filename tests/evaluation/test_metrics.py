"""Evaluation metrics: hand-computed cases, the definition of the average precision, scikit-learn's values."""

import hypothesis
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import strategies as st

from dist_jax.errors import UserError
from dist_jax.evaluation.metrics import (
    class_accuracies,
    class_average_precisions,
    compute_metrics,
    confusion_matrix,
    mean_average_precision,
    top_classes,
)

SCORES = np.asarray([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.4, 0.3, 0.3], [0.1, 0.2, 0.7]], np.float32)
LABELS = np.asarray([0, 2, 0, 2])


def test_equal_scores_are_ranked_by_class_number():
    np.testing.assert_array_equal(top_classes(np.asarray([[0.3, 0.4, 0.4]]), 3), [[1, 2, 0]])


def test_rows_of_the_confusion_matrix_are_true_classes():
    np.testing.assert_array_equal(confusion_matrix(SCORES, LABELS), [[2, 0, 0], [0, 0, 0], [0, 1, 1]])


def test_metrics_equal_the_hand_computed_values():
    assert compute_metrics(SCORES, LABELS) == {"top1": 0.75, "top5": 1.0, "mean_class_accuracy": 0.75}


def test_top5_counts_the_five_highest_scores():
    scores = np.tile(np.arange(7.0), (4, 1))  # class 6 has the highest score
    metrics = compute_metrics(scores, np.asarray([6, 2, 1, 0]))
    assert (metrics["top1"], metrics["top5"]) == (0.25, 0.5)
    assert compute_metrics(scores, np.asarray([3, 3, 3, 6]))["top5"] == 1.0


@pytest.mark.parametrize("labels", [LABELS, np.eye(3, dtype=bool)[LABELS]], ids=["one label", "several labels"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_have_no_metrics(labels, value):
    scores = SCORES.copy()
    scores[1] = scores[3, 0] = value
    with pytest.raises(UserError, match=r"^the scores of 2 of 4 videos are NaN or infinite; evaluate a"):
        compute_metrics(scores, labels)


def test_a_class_without_videos_has_no_accuracy():
    np.testing.assert_array_equal(class_accuracies(confusion_matrix(SCORES, LABELS)), [1.0, np.nan, 0.5])


# scores of one class, positive videos, average precision
AVERAGE_PRECISIONS = {
    "perfect order": ([0.1, 0.9, 0.8], [0, 1, 1], 1.0),
    "the example of scikit-learn's documentation": ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], (1 + 2 / 3) / 2),
    "the positive video is last": ([0.9, 0.8, 0.7, 0.1], [0, 0, 0, 1], 1 / 4),
    "all scores are equal": ([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 1], 1 / 2),
    "a tie of a positive and a negative video": ([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0], (1 + 2 / 3) / 2),
    "a tie after a negative video": ([0.9, 0.5, 0.5, 0.5], [0, 1, 0, 1], 2 / 4),
    "two ties": ([0.7, 0.7, 0.2, 0.2, 0.2], [1, 0, 1, 1, 0], (1 / 2 + 2 * 3 / 5) / 3),
    "every video is positive": ([0.3, 0.2, 0.1], [1, 1, 1], 1.0),
    "one video": ([0.3], [1], 1.0),
}


@pytest.mark.parametrize("name", AVERAGE_PRECISIONS)
def test_average_precision_equals_the_hand_computed_value(name):
    scores, positive, expected = AVERAGE_PRECISIONS[name]
    for order in (slice(None), slice(None, None, -1)):  # the order of the videos does not matter
        columns = np.asarray(scores, np.float32)[order, None], np.asarray(positive, bool)[order, None]
        assert class_average_precisions(*columns) == pytest.approx([expected])


def test_the_mean_covers_the_classes_that_any_video_has():
    scores = np.asarray([[0.9, 0.1, 0.8], [0.2, 0.5, 0.9]], np.float32)
    labels = np.asarray([[True, False, True], [False, False, False]])
    np.testing.assert_allclose(class_average_precisions(scores, labels), [1.0, np.nan, 0.5])
    assert mean_average_precision(scores, labels) == 0.75
    assert compute_metrics(scores, labels) == {"mean_average_precision": 0.75}
    assert np.isnan(mean_average_precision(scores, np.zeros_like(labels)))


def average_precision_by_definition(scores: np.ndarray, positive: np.ndarray) -> float:
    """Sum over the thresholds, from the highest, of the gain in recall times the precision."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        recall = positive[chosen].sum() / positive.sum()
        total += (recall - recall_before) * positive[chosen].mean()
        recall_before = recall
    return total


@st.composite
def multi_label_scores(draw) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 [n, K] with many ties and labels bool [n, K]; every class has a positive video."""
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 4)))
    scores = draw(arrays.arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 3.0])))
    labels = draw(arrays.arrays(bool, shape))
    labels[draw(st.integers(0, shape[0] - 1))] = True
    return scores, labels


@hypothesis.settings(max_examples=60, derandomize=True)
@hypothesis.given(multi_label_scores())
def test_average_precision_follows_its_definition(case):
    scores, labels = case
    expected = [average_precision_by_definition(s, p) for s, p in zip(scores.T, labels.T, strict=True)]
    np.testing.assert_allclose(class_average_precisions(scores, labels), expected)


@hypothesis.settings(max_examples=60, derandomize=True)
@hypothesis.given(multi_label_scores())
def test_average_precision_equals_that_of_scikit_learn(case):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    scores, labels = case
    columns = zip(labels.T.astype(int), scores.T, strict=True)
    expected = [sklearn_metrics.average_precision_score(*column) for column in columns]
    np.testing.assert_allclose(class_average_precisions(scores, labels), expected)
    assert mean_average_precision(scores, labels) == pytest.approx(np.mean(expected))
