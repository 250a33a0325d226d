"""Metrics of an evaluation with one label: of each classifier, averaged over splits.

The zero-shot protocol of the paper (section 4.3): logits = w * plain CLIP + (1 - w) * DiST with w = 0.5. Results are
means over three official splits.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from dist_jax.evaluation.eval_step import MODEL, PLAIN, TRAINED
from dist_jax.evaluation.metrics import compute_metrics
from dist_jax.evaluation.splits import Split
from dist_jax.evaluation.tables import markdown_table
from dist_jax.evaluation.view_scores import sum_views, to_scores
from dist_jax.files import write_text


@dataclasses.dataclass(frozen=True)
class SplitMetrics:
    """Metrics of one split, by classifier ("model", "dist", "clip") and metric name, 0 to 1."""

    split: Split
    metrics: dict[str, dict[str, float]]


def metrics_of_splits(
    logits: Mapping[str, np.ndarray], labels: np.ndarray, splits: Sequence[Split]
) -> list[SplitMetrics]:
    """Metrics of every classifier on every split.

    Args:
        logits: by classifier, float32 [n, V, K], of each view.
        labels: int32 [n], or bool [n, K].
        splits: at least one.
    """
    classifiers = [name for name in (MODEL, TRAINED, PLAIN) if name in logits]
    return [
        SplitMetrics(split, {name: _split_metrics(logits[name], labels, split) for name in classifiers})
        for split in splits
    ]


def _split_metrics(views: np.ndarray, labels: np.ndarray, split: Split) -> dict[str, float]:
    views, labels = views[split.rows], labels[split.rows]
    if split.classes is not None:
        views = views[:, :, split.classes]
        labels = (labels[:, None] == split.classes).argmax(axis=1)
    return compute_metrics(sum_views(to_scores(views, multi_label=labels.ndim == 2)), labels)


def summarize_splits(results: Sequence[SplitMetrics]) -> dict[str, float]:
    """Mean and deviation over the splits.

    Returns:
        `videos` (of all splits), the mean of each metric; with several splits also NAME_std, the population standard
        deviation. The metrics of the classifiers "dist" and "clip" have their name as a prefix: dist_top1.
    """
    summary: dict[str, float] = {"videos": len(np.unique(np.concatenate([r.split.rows for r in results])))}
    for classifier, metrics in results[0].metrics.items():
        for name in metrics:
            values = [result.metrics[classifier][name] for result in results]
            summary[_prefix(classifier) + name] = float(np.mean(values))
            if len(results) > 1:
                summary[f"{_prefix(classifier)}{name}_std"] = float(np.std(values))
    return summary


def as_table(results: Sequence[SplitMetrics], zero_shot_weight: float) -> str:
    """A Markdown table, percent: a row per classifier, a column per split, and mean ± deviation if there are several.

    The cell of a split has the first two metrics: "68.3 / 90.1".
    """
    summary = summarize_splits(results)
    names = list(results[0].metrics[MODEL])[:2]
    head = ["classifier", *(f"{result.split.name} {' / '.join(names)}" for result in results)]
    head += [f"mean {name}" for name in names] if len(results) > 1 else []
    rows = []
    for classifier in results[0].metrics:
        cells = [" / ".join(f"{100 * r.metrics[classifier][name]:.1f}" for name in names) for r in results]
        if len(results) > 1:
            means = [_prefix(classifier) + name for name in names]
            cells += [f"{100 * summary[mean]:.1f} ± {100 * summary[f'{mean}_std']:.1f}" for mean in means]
        rows.append([_title(classifier, zero_shot_weight if len(results[0].metrics) > 1 else None), *cells])
    return markdown_table(head, rows)


def _prefix(classifier: str) -> str:
    return "" if classifier == MODEL else f"{classifier}_"


def _title(classifier: str, zero_shot_weight: float | None) -> str:
    """The name of a classifier in the table. Without weight, there is only one."""
    if classifier == MODEL and zero_shot_weight is not None:
        return f"{1 - zero_shot_weight:g} DiST + {zero_shot_weight:g} CLIP"
    return {MODEL: "model", TRAINED: "DiST", PLAIN: "plain CLIP"}[classifier]


def write_splits(file: epath.Path, results: Sequence[SplitMetrics], zero_shot_weight: float) -> None:
    """Writes the metrics of every split as JSON, and the table of `as_table` next to it (.md)."""
    splits = [
        {
            "split": result.split.name,
            "videos": len(result.split.rows),
            "missing": list(result.split.missing),
            "dropped": result.split.dropped,
            **result.metrics,
        }
        for result in results
    ]
    content = {"zero_shot_weight": zero_shot_weight, "summary": summarize_splits(results), "splits": splits}
    write_text(str(file), json.dumps(content, indent=1) + "\n")
    write_text(str(file.with_suffix(".md")), as_table(results, zero_shot_weight))
