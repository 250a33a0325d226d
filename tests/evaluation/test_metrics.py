"""Evaluation metrics: hand-computed cases."""

import numpy as np

from dist_jax.evaluation.metrics import class_accuracies, compute_metrics, confusion_matrix, top_classes

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


def test_a_class_without_videos_has_no_accuracy():
    np.testing.assert_array_equal(class_accuracies(confusion_matrix(SCORES, LABELS)), [1.0, np.nan, 0.5])
