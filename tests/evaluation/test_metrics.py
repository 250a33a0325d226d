"""Exact counts by hand."""

import numpy as np

from dist_jax.evaluation.metrics import class_accuracies, compute_metrics, confusion_matrix, top_classes

SCORES = np.asarray([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.4, 0.3, 0.3], [0.1, 0.2, 0.7]], np.float32)
LABELS = np.asarray([0, 2, 0, 2])


def test_equal_scores_go_to_the_lower_class():
    np.testing.assert_array_equal(top_classes(np.asarray([[0.3, 0.4, 0.4]]), 3), [[1, 2, 0]])


def test_confusion_rows_are_true_classes():
    np.testing.assert_array_equal(confusion_matrix(SCORES, LABELS), [[2, 0, 0], [0, 0, 0], [0, 1, 1]])


def test_accuracies_by_hand():
    found = compute_metrics(SCORES, LABELS)
    assert found == {"top1": 0.75, "top5": 1.0, "mean_class_accuracy": 0.75}


def test_the_five_best_of_seven_classes():
    scores = np.tile(np.arange(7.0), (4, 1))  # class 6 is the best, 0 the worst
    found = compute_metrics(scores, np.asarray([6, 2, 1, 0]))
    assert (found["top1"], found["top5"]) == (0.25, 0.5)
    assert compute_metrics(scores, np.asarray([3, 3, 3, 6]))["top5"] == 1.0


def test_a_class_without_videos_has_no_accuracy():
    per_class = class_accuracies(confusion_matrix(SCORES, LABELS))
    np.testing.assert_array_equal(per_class, [1.0, np.nan, 0.5])
