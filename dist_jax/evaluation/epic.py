"""Evaluation on EPIC-KITCHENS-100: accuracies of verbs, nouns and actions from per-view scores, in NumPy.

An action is a pair (verb, noun). Its number is verb * 300 + noun. Its score is the softmax score of the verb times that
of the noun in each view, summed over views. This is not the product of the sums over views. Equal scores are ordered by
number.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from dist_jax.errors import DivergedError, UserError
from dist_jax.evaluation.epic_annotations import (
    NO_GROUPS,
    NUM_NOUNS,
    NUM_VERBS,
    EpicGroups,
    EpicLabels,
    check_unique,
    format_ids,
    missing_ids,
)
from dist_jax.evaluation.view_scores import sum_views

NUM_BEST_ACTIONS = 100  # of a segment, in the challenge file
_BLOCK = 32  # segments per block; their 29,100 action scores in float64 take 7 MB


@dataclasses.dataclass(frozen=True)
class EpicScores:
    """Verb and noun scores of n action segments.

    Raises:
        UserError: the arrays have other shapes, a score is not finite, or a narration id is not unique.
    """

    narration_ids: Sequence[str]  # n
    verbs: np.ndarray  # float32 [n, V, 97], softmax of each view; V includes the crops
    nouns: np.ndarray  # float32 [n, V, 300]

    def __post_init__(self) -> None:
        _check_run(self.narration_ids, self.verbs, "verb", NUM_VERBS)
        _check_run(self.narration_ids, self.nouns, "noun", NUM_NOUNS)
        if self.verbs.shape[1] != self.nouns.shape[1]:
            raise UserError(
                f"the number of views is {self.verbs.shape[1]} for verbs and {self.nouns.shape[1]} for nouns; actions "
                "need both in each view: evaluate with the same eval.num_views and eval.num_crops"
            )


@dataclasses.dataclass(frozen=True)
class RunScores:
    """Scores of n action segments for one label, from a run that was trained on this label."""

    narration_ids: Sequence[str]  # n
    scores: np.ndarray  # float32 [n, V, K], softmax of each view


@dataclasses.dataclass(frozen=True)
class JoinedRuns:
    """Scores of the segments that two runs have in common, and the ids of the other segments."""

    scores: EpicScores  # in the order of the verb run
    without_verbs: list[str]
    without_nouns: list[str]

    def missing_lines(self) -> list[str]:
        """One line for each run that lacks segments: their number and the first ids."""
        parts = {"verb": self.without_verbs, "noun": self.without_nouns}
        return [f"no {kind} scores for {format_ids(names)}" for kind, names in parts.items() if names]


def join_runs(verb_run: RunScores, noun_run: RunScores) -> JoinedRuns:
    """Joins the scores of a run trained on verbs and a run trained on nouns by narration id.

    Raises:
        UserError: the runs have no segment in common or different numbers of views, or a run has invalid scores.
    """
    _check_run(verb_run.narration_ids, verb_run.scores, "verb", NUM_VERBS)
    _check_run(noun_run.narration_ids, noun_run.scores, "noun", NUM_NOUNS)
    without_nouns = missing_ids(verb_run.narration_ids, noun_run.narration_ids)
    without_verbs = missing_ids(noun_run.narration_ids, verb_run.narration_ids)
    noun_rows = {name: row for row, name in enumerate(noun_run.narration_ids)}
    common = [(row, noun_rows[name]) for row, name in enumerate(verb_run.narration_ids) if name in noun_rows]
    if not common:
        raise UserError(
            f"no narration id has verb and noun scores: the verb run has {format_ids(without_nouns)}, the noun run "
            f"{format_ids(without_verbs)}; evaluate both runs on the same split"
        )
    verb_rows, rows = map(list, zip(*common, strict=True))
    ids = [verb_run.narration_ids[row] for row in verb_rows]
    return JoinedRuns(EpicScores(ids, verb_run.scores[verb_rows], noun_run.scores[rows]), without_verbs, without_nouns)


def epic_metrics(scores: EpicScores, labels: EpicLabels, groups: EpicGroups = NO_GROUPS) -> dict[str, float]:
    """Top-1 and top-5 accuracies, 0 to 1, of verbs, nouns and actions.

    Args:
        scores: of the segments to evaluate, n > 0.
        labels: of at least these segments, in any order.
        groups: unseen participants and tail classes. As in the challenge, `unseen_*` counts the segments of unseen
          participants, `tail_verb_*` those with a tail verb, `tail_noun_*` those with a tail noun, and `tail_action_*`
          those with a tail verb or a tail noun.

    Returns:
        videos (number of segments), missing (annotated segments without scores), verb_top1, verb_top5, noun_top1, ...,
        action_top5. For each group that has segments the same with a prefix, and their number: unseen_videos,
        unseen_verb_top1, ..., tail_verb_videos, tail_verb_top1, ...

    Raises:
        UserError: a segment has no label.
    """
    selected = labels.select(scores.narration_ids)
    ranks = {
        "verb": _label_ranks(sum_views(scores.verbs), selected.verbs),
        "noun": _label_ranks(sum_views(scores.nouns), selected.nouns),
        "action": _action_ranks(scores, selected),
    }
    metrics: dict[str, float] = {
        "videos": len(scores.narration_ids),
        "missing": len(labels.narration_ids) - len(scores.narration_ids),
        **{name: value for kind in ranks for name, value in _accuracies(kind, ranks[kind]).items()},
    }
    unseen = np.isin(np.asarray(selected.participants), sorted(groups.unseen_participants))
    if unseen.any():
        metrics["unseen_videos"] = int(unseen.sum())
        for kind in ranks:
            metrics |= _accuracies(f"unseen_{kind}", ranks[kind][unseen])
    tail = {
        "verb": np.isin(selected.verbs, sorted(groups.tail_verbs)),
        "noun": np.isin(selected.nouns, sorted(groups.tail_nouns)),
    }
    tail["action"] = tail["verb"] | tail["noun"]
    for kind, rows in tail.items():
        if rows.any():
            metrics[f"tail_{kind}_videos"] = int(rows.sum())
            metrics |= _accuracies(f"tail_{kind}", ranks[kind][rows])
    return metrics


def best_actions(scores: EpicScores, count: int = NUM_BEST_ACTIONS) -> tuple[np.ndarray, np.ndarray]:
    """The `count` best of the 29,100 actions of each segment, best first.

    Every pair is compared, a block of segments at a time. The verbs and nouns with the highest sums over views are not
    enough: an action may be among the best because its verb and its noun score high in the same view.

    Returns:
        Verb and noun of each action, int32 [n, count, 2], and its score, float64 [n, count].
    """
    numbers = np.empty((len(scores.narration_ids), count), np.int32)
    values = np.empty(numbers.shape)
    for first, block in _action_blocks(scores):
        thresholds = -np.partition(-block, count - 1, axis=1)[:, count - 1]
        for row, (actions, threshold) in enumerate(zip(block, thresholds, strict=True), first):
            candidates = np.flatnonzero(actions >= threshold)  # more than `count` if scores are equal
            numbers[row] = candidates[np.argsort(-actions[candidates], kind="stable")[:count]]
            values[row] = actions[numbers[row]]
    return np.stack(np.divmod(numbers, NUM_NOUNS), axis=-1), values


def _action_ranks(scores: EpicScores, labels: EpicLabels) -> np.ndarray:
    """Number of actions before the true one, int64 [n]."""
    numbers = labels.verbs * NUM_NOUNS + labels.nouns
    ranks = [_label_ranks(block, numbers[first : first + len(block)]) for first, block in _action_blocks(scores)]
    return np.concatenate(ranks)


def _action_blocks(scores: EpicScores) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first segment, action scores float64 [b, 29100]) of blocks of segments.

    The products are exact in float64, and the views are added in their order: actions with equal factors get equal
    scores on every machine.
    """
    for first in range(0, len(scores.narration_ids), _BLOCK):
        verbs = scores.verbs[first : first + _BLOCK].astype(np.float64)
        nouns = scores.nouns[first : first + _BLOCK].astype(np.float64)
        total = np.zeros((len(verbs), NUM_VERBS, NUM_NOUNS))
        for view in range(verbs.shape[1]):
            total += verbs[:, view, :, None] * nouns[:, view, None, :]
        yield first, total.reshape(len(verbs), -1)


def _label_ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Number of classes before the label: higher scores, and equal scores of lower numbers. [n, K], [n] -> [n]."""
    own = np.take_along_axis(scores, labels[:, None].astype(np.int64), axis=1)
    is_lower = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & is_lower)).sum(axis=1)


def _accuracies(name: str, ranks: np.ndarray) -> dict[str, float]:
    return {f"{name}_top{k}": float((ranks < k).mean()) for k in (1, 5)}


def _check_run(narration_ids: Sequence[str], scores: np.ndarray, kind: str, num_classes: int) -> None:
    if scores.ndim != 3 or len(scores) != len(narration_ids) or scores.shape[2] != num_classes or not scores.size:
        raise UserError(
            f"{kind} scores have the shape {scores.shape}; expected [{len(narration_ids)}, views, {num_classes}], for "
            f"{len(narration_ids)} narration ids and {num_classes} {kind} classes"
        )
    check_unique(narration_ids, f"{kind} scores")
    invalid = np.flatnonzero(~np.isfinite(scores).all(axis=(1, 2))).tolist()
    if invalid:
        names = format_ids([narration_ids[row] for row in invalid])
        raise DivergedError(f"{kind} scores are NaN or infinite for {names}")
