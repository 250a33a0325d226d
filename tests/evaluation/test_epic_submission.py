"""The challenge file of EPIC-KITCHENS-100: contents and schema."""

import json

import numpy as np
import pytest

from dist_jax.errors import UserError
from dist_jax.evaluation.epic import EpicScores, best_actions
from dist_jax.evaluation.epic_submission import check_submission, write_submission

IDS = ["P01_101_0", "P01_101_1"]


def make_scores() -> EpicScores:
    rng = np.random.default_rng(0)
    verbs, nouns = (rng.random((2, 3, size), np.float32) for size in (97, 300))
    return EpicScores(IDS, verbs / verbs.sum(-1, keepdims=True), nouns / nouns.sum(-1, keepdims=True))


@pytest.fixture
def submission(tmp_path):
    """A valid challenge file and its contents."""
    path = str(tmp_path / "test.json")
    write_submission(path, make_scores(), sls_pt=5, sls_tl=3, sls_td=3)
    with open(path) as file:
        return path, json.load(file)


def test_contents(submission):
    path, contents = submission
    head = {key: value for key, value in contents.items() if key != "results"}
    assert head == {"version": "0.2", "challenge": "action_recognition", "sls_pt": 5, "sls_tl": 3, "sls_td": 3}
    assert list(contents["results"]) == IDS
    scores = make_scores()
    actions, action_scores = best_actions(scores)
    for row, segment in enumerate(contents["results"].values()):
        for kind, values in (("verb", scores.verbs), ("noun", scores.nouns)):
            assert list(segment[kind]) == [str(number) for number in range(values.shape[2])]
            np.testing.assert_allclose(list(segment[kind].values()), values[row].sum(0), rtol=1e-6)
        assert list(segment["action"]) == [f"{verb},{noun}" for verb, noun in actions[row]]
        np.testing.assert_allclose(list(segment["action"].values()), action_scores[row], rtol=1e-8)
    check_submission(path, IDS)


def test_invalid_supervision_levels_write_no_file(tmp_path):
    path = tmp_path / "test.json"
    with pytest.raises(UserError, match="sls_td is 6; it must be an integer from 0 to 5"):
        write_submission(str(path), make_scores(), 5, 3, 6)
    assert not [*tmp_path.iterdir()]


def change(*keys: str, value: object = None) -> object:
    """A function that sets the value at a path of keys, or deletes it if `value` is None."""

    def apply(contents: dict) -> None:
        for key in keys[:-1]:
            contents = contents[key]
        contents[keys[-1]] = value
        if value is None:
            del contents[keys[-1]]

    return apply


FIRST = ("results", IDS[0])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("version", value="0.1"), "version is '0.1'; it must be '0.2'"),
        (change("challenge"), "challenge is None; it must be 'action_recognition'"),
        (change("sls_pt", value=True), "sls_pt is True; it must be an integer"),
        (change("results", value=[]), "results must be an object"),
        (change(*FIRST), r"no scores for 1 narration id \(P01_101_0\); the challenge needs all 2"),
        (change("results", "P09_9", value={}), r"1 narration id \(P09_9\) are not in the annotations"),
        (change(*FIRST, "action"), "P01_101_0: must be an object with the objects verb, noun and action"),
        (change(*FIRST, "verb", "96"), "P01_101_0: verb 96 has no score; .* 0 to 96"),
        (change(*FIRST, "noun", "300", value=1.0), "P01_101_0: '300' is not a noun class"),
        (change(*FIRST, "noun", "7", value="0.5"), "the score of noun 7 is '0.5'; it must be a finite number"),
        (change(*FIRST, "action", "3,4,5", value=1.0), "101 actions; the challenge needs 100"),
        (change(*FIRST, "verb", "3", value=float("nan")), "contains NaN, which is not JSON"),
    ],
)
def test_invalid_files_are_rejected(submission, edit, message):
    path, contents = submission
    edit(contents)
    with open(path, "w") as file:
        json.dump(contents, file)
    with pytest.raises(UserError, match=message) as error:
        check_submission(path, IDS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("action", ["97,0", "0,300", "1, 2", "01,2", "1", "open,door"])
def test_actions_are_two_class_numbers(submission, action):
    path, contents = submission
    actions = contents["results"][IDS[1]]["action"]
    contents["results"][IDS[1]]["action"] = {action: 1.0} | dict(list(actions.items())[1:])
    with open(path, "w") as file:
        json.dump(contents, file)
    with pytest.raises(UserError, match=f"P01_101_1: '{action}' is not an action"):
        check_submission(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("3", "must be a JSON object"),
        ('{"version": "0.2", "version": "0.2"}', "the key 'version' occurs twice"),
    ],
)
def test_files_with_other_contents_are_rejected(tmp_path, text, message):
    path = tmp_path / "test.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        check_submission(str(path))
