"""Metrics of classifiers and splits, computed by hand."""

import json

import numpy as np
import pytest
from etils import epath

from dist_jax.evaluation.metrics import mean_average_precision
from dist_jax.evaluation.splits import Split
from dist_jax.evaluation.view_scores import sum_views, to_scores
from dist_jax.evaluation.zero_shot import as_table, metrics_of_splits, summarize_splits, write_splits

# Logits of four videos, two views, four classes: log probabilities times any factor.
VIEWS = np.log(
    np.array(
        [
            [[0.4, 0.3, 0.2, 0.1], [0.1, 0.3, 0.2, 0.4]],  # sums 0.5, 0.6, 0.4, 0.5: class 1
            [[0.1, 0.1, 0.7, 0.1], [0.1, 0.1, 0.7, 0.1]],  # class 2
            [[0.1, 0.2, 0.1, 0.6], [0.3, 0.2, 0.4, 0.1]],  # sums 0.4, 0.4, 0.5, 0.7: class 3
            [[0.7, 0.1, 0.1, 0.1], [0.1, 0.2, 0.6, 0.1]],  # sums 0.8, 0.3, 0.7, 0.2: class 0
        ]
    )
).astype(np.float32)
LABELS = np.array([1, 2, 2, 0], np.int32)


def test_scores_are_a_softmax_of_each_view_summed_over_views():
    np.testing.assert_allclose(sum_views(to_scores(VIEWS))[0], [0.5, 0.6, 0.4, 0.5], rtol=1e-6)


def test_scores_of_several_labels_are_sigmoids_also_for_large_logits():
    scores = to_scores(np.array([0.0, np.log(3.0), 500.0, -500.0], np.float32), multi_label=True)
    np.testing.assert_allclose(scores, [0.5, 0.75, 1.0, np.exp(-500.0)], rtol=1e-6)


def test_sigmoids_keep_the_order_of_the_logits():
    """Equal scores of different logits would change the average precision."""
    logits = np.array([-80.0, -30.0, -20.0, -19.9999, -16.0001, -16.0, 16.0, 16.0001, 20.0, 30.0], np.float32)
    scores = sum_views(to_scores(logits[:, None, None], multi_label=True))[:, 0]
    assert (np.diff(scores) > 0).all()
    labels = np.arange(len(logits))[:, None] % 2 == 1
    assert mean_average_precision(scores[:, None], labels) == mean_average_precision(logits[:, None], labels)


def test_large_logits_of_a_subset_of_classes_give_finite_scores():
    views = np.array([[[500.0, 1.0, 0.0]]], np.float32)
    split = Split("novel", np.array([0]), classes=np.array([1, 2]))
    (result,) = metrics_of_splits({"model": views}, np.array([1]), [split])
    assert result.metrics["model"]["top1"] == 1.0


def test_one_split_of_all_videos():
    (result,) = metrics_of_splits({"model": VIEWS}, LABELS, [Split("all", np.arange(4))])
    summary = summarize_splits([result])
    assert (summary["videos"], summary["top1"]) == (4, 0.75)
    assert not [name for name in summary if name.endswith("_std")]


def test_classes_outside_the_list_of_a_split_do_not_compete():
    # Without class 3, the views of video 2 are 1/4, 1/2, 1/4 and 3/9, 2/9, 4/9: class 1 with 0.72 against 0.69.
    split = Split("novel", np.array([0, 1, 2]), classes=np.array([2, 0, 1]), dropped=1)
    (result,) = metrics_of_splits({"model": VIEWS}, LABELS, [split])
    # Video 0: 4/9, 3/9, 2/9 and 1/6, 3/6, 2/6: class 1 with 0.83. Video 1: class 2.
    assert result.metrics["model"]["top1"] == pytest.approx(2 / 3)
    assert result.metrics["model"]["top5"] == 1.0


def test_mean_and_deviation_over_splits_of_every_classifier(tmp_path):
    plain = np.broadcast_to(np.array([9.0, 0, 0, 0], np.float32), VIEWS.shape)  # always class 0
    splits = [Split("1", np.array([0, 1])), Split("2", np.array([2, 3])), Split("3", np.array([1, 3]))]
    results = metrics_of_splits({"model": VIEWS, "dist": VIEWS, "clip": plain}, LABELS, splits)
    summary = summarize_splits(results)  # model: 1, 1/2, 1; plain CLIP: 0, 1/2, 1/2
    assert summary["videos"] == 4
    assert summary["top1"] == summary["dist_top1"] == pytest.approx(5 / 6)
    assert summary["clip_top1"] == pytest.approx(1 / 3)
    assert summary["top1_std"] == pytest.approx(np.sqrt(2 * (1 / 6) ** 2 / 3 + (1 / 3) ** 2 / 3))
    table = as_table(results, 0.5).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert cells[0] == ["classifier", *(f"{split} top1 / top5" for split in "123"), "mean top1", "mean top5"]
    assert [row[:5] for row in cells[2:]] == [
        ["0.5 DiST + 0.5 CLIP", "100.0 / 100.0", "50.0 / 100.0", "100.0 / 100.0", "83.3 ± 23.6"],
        ["DiST", "100.0 / 100.0", "50.0 / 100.0", "100.0 / 100.0", "83.3 ± 23.6"],
        ["plain CLIP", "0.0 / 100.0", "50.0 / 100.0", "50.0 / 100.0", "33.3 ± 23.6"],
    ]
    write_splits(epath.Path(tmp_path) / "val_splits.json", results, 0.5)
    written = json.loads((tmp_path / "val_splits.json").read_text())
    assert written["summary"] == summary
    assert written["splits"][1]["clip"]["top1"] == 0.5
    assert (tmp_path / "val_splits.md").read_text().splitlines() == table
