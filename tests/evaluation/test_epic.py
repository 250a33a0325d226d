"""EPIC-KITCHENS-100: accuracies against a count over all 29,100 actions, runs joined by narration id, annotations."""

import dataclasses

import numpy as np
import pytest

from dist_jax.errors import UserError
from dist_jax.evaluation.epic import EpicScores, RunScores, best_actions, epic_metrics, join_runs
from dist_jax.evaluation.epic_annotations import EpicGroups, EpicLabels, read_groups, read_labels, read_narration_ids
from dist_jax.evaluation.metrics import top_k_accuracy

NUM_VIEWS = 3


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return (exponentials / exponentials.sum(-1, keepdims=True)).astype(np.float32)


def random_scores(num_segments: int, num_views: int = NUM_VIEWS) -> EpicScores:
    rng = np.random.default_rng(0)
    ids = [f"P{row % 4:02d}_{row // 4:02d}_{row}" for row in range(num_segments)]
    verbs, nouns = (3 * rng.standard_normal((num_segments, num_views, size)) for size in (97, 300))
    return EpicScores(ids, softmax(verbs), softmax(nouns))


def labels_for(scores: EpicScores, verbs: list[int], nouns: list[int]) -> EpicLabels:
    participants = [name.partition("_")[0] for name in scores.narration_ids]
    return EpicLabels(scores.narration_ids, participants, np.asarray(verbs, np.int32), np.asarray(nouns, np.int32))


def one_hot(classes: list[int], num_classes: int) -> np.ndarray:
    """Scores of one segment: in each view, all on one class. [V] -> float32 [1, V, num_classes]."""
    return np.eye(num_classes, dtype=np.float32)[classes][None]


def all_actions(scores: EpicScores, row: int) -> list[tuple[float, int, int]]:
    """(score, verb, noun) of the 29,100 actions of a segment, best first, equal scores by verb and noun."""
    verbs, nouns = scores.verbs[row].tolist(), scores.nouns[row].tolist()
    actions = [
        (sum(view_verbs[i] * view_nouns[j] for view_verbs, view_nouns in zip(verbs, nouns, strict=True)), i, j)
        for i in range(97)
        for j in range(300)
    ]
    return sorted(actions, key=lambda action: (-action[0], action[1], action[2]))


def test_actions_equal_a_count_over_all_pairs():
    scores = random_scores(35)  # more than one block
    checked = (0, 31, 32, 34)
    counted = {row: all_actions(scores, row) for row in checked}
    actions, values = best_actions(scores)
    for row in checked:
        np.testing.assert_array_equal(actions[row], [action[1:] for action in counted[row][:100]])
        np.testing.assert_array_equal(values[row], [action[0] for action in counted[row][:100]])
    ranks = dict(zip(checked, (0, 4, 5, 29_099), strict=True))  # of the true action: top 1, top 5, neither
    subset = EpicScores(
        [scores.narration_ids[row] for row in checked], scores.verbs[[*checked]], scores.nouns[[*checked]]
    )
    true = [counted[row][rank] for row, rank in ranks.items()]
    metrics = epic_metrics(subset, labels_for(subset, [verb for _, verb, _ in true], [noun for _, _, noun in true]))
    assert (metrics["action_top1"], metrics["action_top5"]) == (0.25, 0.5)


def test_verbs_and_nouns_are_ranked_by_their_sums_over_views():
    scores = random_scores(200)
    rng = np.random.default_rng(1)
    labels = labels_for(scores, rng.integers(0, 5, 200).tolist(), rng.integers(0, 5, 200).tolist())
    metrics = epic_metrics(scores, labels)
    for kind, values, classes in (("verb", scores.verbs, labels.verbs), ("noun", scores.nouns, labels.nouns)):
        for k in (1, 5):
            assert metrics[f"{kind}_top{k}"] == top_k_accuracy(values.sum(1, dtype=np.float64), classes, k)


def test_actions_are_products_of_each_view_not_of_the_sums():
    """Verb 1 and noun 1 have the highest sums, but in different views; verb 2 and noun 2 agree in view 0."""
    verbs, nouns = np.zeros((1, 2, 97), np.float32), np.zeros((1, 2, 300), np.float32)
    verbs[0, :, 1], verbs[0, 0, 2], verbs[0, :, 0] = [0.1, 0.9], 0.7, [0.2, 0.1]
    nouns[0, :, 1], nouns[0, 0, 2], nouns[0, :, 0] = [0.3, 0.5], 0.7, [0.0, 0.5]
    metrics = epic_metrics(EpicScores(["a"], verbs, nouns), EpicLabels(["a"], ["P01"], *np.asarray([[2], [2]])))
    assert (metrics["verb_top1"], metrics["noun_top1"], metrics["action_top1"]) == (0.0, 0.0, 1.0)


def test_equal_actions_are_ranked_by_verb_and_noun():
    scores = EpicScores(["a"], one_hot([4, 3], 97), one_hot([7, 8], 300))
    actions, values = best_actions(scores, 4)
    assert actions.tolist() == [[[3, 8], [4, 7], [0, 0], [0, 1]]]
    assert values.tolist() == [[1, 1, 0, 0]]
    ranked = {(4, 7): (0, 1), (0, 2): (0, 1), (0, 3): (0, 0)}  # label -> top 1, top 5
    for (verb, noun), expected in ranked.items():
        metrics = epic_metrics(scores, labels_for(scores, [verb], [noun]))
        assert (metrics["action_top1"], metrics["action_top5"]) == expected


def test_unseen_participants_and_tail_classes():
    """A tail action has a tail verb or a tail noun."""
    ids = ["P01_0", "P01_1", "P18_0", "P18_1"]
    verbs, nouns = [0, 50, 50, 0], [0, 1, 200, 200]
    predicted_verbs, predicted_nouns = [0, 50, 51, 0], [1, 1, 200, 200]
    scores = EpicScores(
        ids,
        np.concatenate([one_hot([verb], 97) for verb in predicted_verbs]),
        np.concatenate([one_hot([noun], 300) for noun in predicted_nouns]),
    )
    labels = labels_for(scores, verbs, nouns)
    groups = EpicGroups(frozenset({"P18", "P32"}), frozenset(range(50, 97)), frozenset({200}))
    metrics = epic_metrics(scores, labels, groups)
    expected = {"videos": 4, "missing": 0, "verb_top1": 0.75, "noun_top1": 0.75, "action_top1": 0.5}
    expected |= {"unseen_videos": 2, "unseen_verb_top1": 0.5, "unseen_noun_top1": 1.0, "unseen_action_top1": 0.5}
    expected |= {"tail_verb_videos": 2, "tail_verb_top1": 0.5, "tail_noun_videos": 2, "tail_noun_top1": 1.0}
    expected |= {"tail_action_videos": 3, "tail_action_top1": 2 / 3}
    assert {name: value for name, value in metrics.items() if not name.endswith("top5")} == expected
    seen = epic_metrics(scores, labels, EpicGroups(frozenset({"P32"})))
    assert not [name for name in seen if name.startswith(("unseen", "tail"))]


def test_runs_are_joined_by_narration_id():
    scores = random_scores(12)
    verb_rows, noun_rows = [5, 3, 8, 0, 1, 2, 4], [1, 8, 9, 5]
    ids = scores.narration_ids
    joined = join_runs(
        RunScores([ids[row] for row in verb_rows], scores.verbs[verb_rows]),
        RunScores([ids[row] for row in noun_rows], scores.nouns[noun_rows]),
    )
    assert joined.scores.narration_ids == [ids[row] for row in (5, 8, 1)]
    np.testing.assert_array_equal(joined.scores.verbs, scores.verbs[[5, 8, 1]])
    np.testing.assert_array_equal(joined.scores.nouns, scores.nouns[[5, 8, 1]])
    assert joined.missing_lines() == [
        f"no verb scores for 1 narration id ({ids[9]})",
        f"no noun scores for 4 narration ids ({ids[3]}, {ids[0]}, {ids[2]}, {ids[4]})",
    ]


def test_annotated_segments_without_scores_are_counted():
    scores = random_scores(4)
    labels = labels_for(scores, [0] * 4, [0] * 4)
    part = EpicScores(scores.narration_ids[2:0:-1], scores.verbs[2:0:-1], scores.nouns[2:0:-1])
    assert {name: epic_metrics(part, labels)[name] for name in ("videos", "missing")} == {"videos": 2, "missing": 2}
    with pytest.raises(UserError, match=r"^the annotations do not contain 2 narration ids \(P02_00_2, P03_00_3\)"):
        epic_metrics(scores, labels.select(scores.narration_ids[:2]))


def run(**changes: object) -> RunScores:
    scores = random_scores(3)
    return dataclasses.replace(RunScores(scores.narration_ids, scores.verbs), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"narration_ids": ["a", "b", "a"]}, "verb scores: the narration id 'a' occurs twice"),
        ({"narration_ids": ["a", "b"]}, r"shape \(3, 3, 97\); expected \[2, views, 97\]"),
        ({"scores": random_scores(3).nouns}, r"shape \(3, 3, 300\); expected \[3, views, 97\]"),
        ({"scores": random_scores(3).verbs.sum(1)}, r"shape \(3, 97\); expected"),
        ({"scores": random_scores(3, 1).verbs}, "the number of views is 1 for verbs and 3 for nouns"),
        ({"scores": np.full((3, 3, 97), np.nan, np.float32)}, r"NaN or infinite for 3 narration ids \(P00_00_0, "),
        ({"narration_ids": ["a", "b", "c"]}, r"verb run has 3 narration ids \(a, b, c\), the noun run 3"),
    ],
)
def test_invalid_runs_are_rejected(changes, message):
    scores = random_scores(3)
    with pytest.raises(UserError, match=message) as error:
        join_runs(run(**changes), RunScores(scores.narration_ids, scores.nouns))
    assert "\n" not in str(error.value)


HEADER = "narration_id,participant_id,video_id,narration,verb_class,noun_class,all_nouns\n"


def test_labels_of_the_published_format(tmp_path):
    path = tmp_path / "EPIC_100_validation.csv"
    path.write_text(
        HEADER + 'P01_11_0,P01,P01_11,"take plate, pan",0,2,"[\'plate\']"\nP18_01_3,P18,P18_01,x,96,299,[]\n'
    )
    labels = read_labels(str(path))
    assert labels.narration_ids == read_narration_ids(str(path)) == ["P01_11_0", "P18_01_3"]
    assert (labels.participants, labels.verbs.tolist(), labels.nouns.tolist()) == (["P01", "P18"], [0, 96], [2, 299])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "a,P01,v,x,3,,[]\n", "line 2: the noun class is ''; .* 0 to 299, and every segment needs"),
        (HEADER + "a,P01,v,x,97,0,[]\n", "line 2: the verb class is '97'; it must be a number from 0 to 96"),
        (HEADER + "a,P01,v,x,0,-1,[]\n", "line 2: the noun class is '-1'"),
        (HEADER + "a,P01,v,x,0,1,[]\nb,P01,v,x,0,1,[]\na,P01,v,x,0,1,[]\n", "lines 2 and 4 have the same narration id"),
        (HEADER + ",P01,v,x,0,1,[]\n", "line 2: narration_id is empty"),
        (HEADER, "contains no action segments"),
        ("narration_id,participant_id,verb_class\na,P01,3\n", "no column 'noun_class'"),
    ],
)
def test_invalid_labels_are_rejected(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_labels(str(tmp_path / "labels.csv"))
    assert "\n" not in str(error.value)


GROUPS = {
    "EPIC_100_unseen_participant_ids_validation.csv": "participant_id\nP18\nP32\n",
    "EPIC_100_tail_verbs.csv": "verb\n10\n12\n",
    "EPIC_100_tail_nouns.csv": "noun\n56\n",
}


def test_groups_are_read_as_far_as_their_files_exist(tmp_path):
    assert read_groups(str(tmp_path)) == EpicGroups()
    for name, text in GROUPS.items():
        (tmp_path / name).write_text(text)
    assert read_groups(str(tmp_path)) == EpicGroups(frozenset({"P18", "P32"}), frozenset({10, 12}), frozenset({56}))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"EPIC_100_tail_verbs.csv": "verb\n1\n"}, "no EPIC_100_tail_nouns.csv; .* remove EPIC_100_tail_verbs.csv"),
        (GROUPS | {"EPIC_100_tail_nouns.csv": "noun\n300\n"}, "tail_nouns.csv, line 2: the noun class is '300'"),
        ({"EPIC_100_unseen_participant_ids_validation.csv": "participant_id\n"}, "contains no rows"),
        (GROUPS | {"EPIC_100_tail_verbs.csv": "10\n12\n"}, "no column 'verb'"),
    ],
)
def test_invalid_groups_are_rejected(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_groups(str(tmp_path))
