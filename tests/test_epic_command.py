"""python -m dist_jax.epic on saved scores: accuracies, joined runs, the challenge file, bad input."""

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from dist_jax import epic
from dist_jax.errors import UserError
from dist_jax.evaluation.run_scores import read_run_scores, write_run_scores

IDS = ["P01_11_0", "P01_11_1", "P37_101_0"]
VERBS, NOUNS = [3, 0, 96], [299, 5, 7]


def softmax(rng: np.random.Generator, num_classes: int) -> np.ndarray:
    powers = np.exp(rng.normal(size=(len(IDS), 2, num_classes)))
    return (powers / powers.sum(axis=2, keepdims=True)).astype(np.float32)


def one_hot(classes: list[int], num_classes: int) -> np.ndarray:
    """Scores of two views that are all on one class."""
    return np.repeat(np.eye(num_classes, dtype=np.float32)[classes][:, None], 2, axis=1)


def write_scores(folder: Path, name: str = "scores", ids: list[str] = IDS, **scores: np.ndarray) -> str:
    write_run_scores(epath.Path(folder) / f"{name}.npz", ids, scores)
    return str(folder / f"{name}.npz")


def write_annotations(file: Path, with_labels: bool = True) -> str:
    rows = [{"narration_id": name, "participant_id": name[:3], "video_id": name[:-2]} for name in IDS]
    if with_labels:
        rows = [row | {"verb_class": v, "noun_class": n} for row, v, n in zip(rows, VERBS, NOUNS, strict=True)]
    with file.open("w") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(file)


def test_accuracies_of_all_segments_unseen_participants_and_tail_classes(tmp_path, capsys):
    annotations = write_annotations(tmp_path / "EPIC_100_validation.csv")
    (tmp_path / "EPIC_100_unseen_participant_ids_validation.csv").write_text("participant_id\nP37\n")
    (tmp_path / "EPIC_100_tail_verbs.csv").write_text("verb\n0\n")
    (tmp_path / "EPIC_100_tail_nouns.csv").write_text("noun\n299\n")
    scores = write_scores(tmp_path, verb=one_hot([3, 1, 96], 97), noun=one_hot([299, 5, 8], 300))
    epic.main(["--scores", scores, "--annotations", annotations])
    assert capsys.readouterr().out.splitlines()[2:] == [
        # Equal scores are ordered by number: verb 0 is the second best, and action 0,5 the seventh.
        "| all | 3 | 66.7 / 100.0 | 66.7 / 66.7 | 33.3 / 33.3 |",
        "| unseen participants | 1 | 100.0 / 100.0 | 0.0 / 0.0 | 0.0 / 0.0 |",
        "| tail verbs | 1 | 0.0 / 100.0 |  |  |",
        "| tail nouns | 1 |  | 100.0 / 100.0 |  |",
        "| tail actions | 2 |  |  | 50.0 / 50.0 |",
    ]


def test_two_runs_give_the_same_table_as_one_run_with_both_labels(tmp_path, capsys):
    annotations = write_annotations(tmp_path / "val.csv")
    rng = np.random.default_rng(0)
    verb, noun = softmax(rng, 97), softmax(rng, 300)
    epic.main(["--scores", write_scores(tmp_path, verb=verb, noun=noun), "--annotations", annotations])
    expected = capsys.readouterr().out
    files = write_scores(tmp_path, "v", verb=verb), write_scores(tmp_path, "n", IDS[::-1], noun=noun[::-1])
    epic.main(["--verb-scores", files[0], "--noun-scores", files[1], "--annotations", annotations])
    assert capsys.readouterr().out == expected


def test_the_challenge_file_is_a_zip_file_with_test_json(tmp_path, capsys):
    annotations = write_annotations(tmp_path / "EPIC_100_test_timestamps.csv", with_labels=False)
    scores = write_scores(tmp_path, verb=one_hot(VERBS, 97), noun=one_hot(NOUNS, 300))
    levels = ["--sls-pt", "2", "--sls-tl", "3", "--sls-td", "4"]
    output = str(tmp_path / "test.zip")
    epic.main(["--scores", scores, "--annotations", annotations, "--output", output, *levels])
    with zipfile.ZipFile(output) as archive:
        assert archive.namelist() == ["test.json"]
        content = json.loads(archive.read("test.json"))
    assert (content["version"], content["challenge"]) == ("0.2", "action_recognition")
    assert [content[name] for name in ("sls_pt", "sls_tl", "sls_td")] == [2, 3, 4]
    assert [*content["results"]] == IDS
    assert content["results"]["P37_101_0"]["action"]["96,7"] == 2.0
    assert "the scores of 3 segments" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "set --scores FILE, or --verb-scores FILE and --noun-scores FILE"),
        (["--verb-scores", "{verb}"], "set --scores FILE, or --verb-scores FILE and --noun-scores FILE"),
        (["--scores", "{verb}"], "contains no noun scores; use the scores of a run with data.label_key=noun"),
        (["--scores", "{text}"], "cannot be read as scores"),
        (["--scores", "{other}"], "contains a; use a file RESULTS_scores.npz"),
        (["--scores", "{both}", "--output", "x.zip"], "x.zip: the challenge needs --sls-pt, --sls-tl, --sls-td"),
        (
            ["--scores", "{both}", "--output", "x.json", "--sls-pt", "0", "--sls-tl", "0", "--sls-td", "0"],
            "x.json: must end in .zip",
        ),
        (
            ["--scores", "{both}", "--output", "{zip}", "--sls-pt", "0", "--sls-tl", "0", "--sls-td", "0"],
            r"no scores for 1 narration id \(P37_101_0\); the challenge needs all 3",
        ),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, message):
    (tmp_path / "text.npz").write_text("text")
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    verb, noun = one_hot(VERBS, 97)[:2], one_hot(NOUNS, 300)[:2]
    files = {
        "verb": write_scores(tmp_path, "verb", IDS[:2], verb=verb),
        "both": write_scores(tmp_path, "both", IDS[:2], verb=verb, noun=noun),
        "text": tmp_path / "text.npz",
        "other": tmp_path / "other.npz",
        "zip": tmp_path / "x.zip",
    }
    annotations = write_annotations(tmp_path / "val.csv")
    with pytest.raises(UserError, match=message) as error:
        epic.main([*(argument.format(**files) for argument in arguments), "--annotations", annotations])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x.zip").exists()


def test_new_scores_replace_the_old_file_at_once(tmp_path):
    file = Path(write_scores(tmp_path, verb=one_hot(VERBS, 97)))
    old = file.read_bytes()
    with file.open("rb") as reader:
        write_scores(tmp_path, verb=one_hot(VERBS[::-1], 97))
        assert reader.read() == old
    assert file.read_bytes() != old


def test_scores_that_cannot_be_written_raise_one_error(tmp_path):
    with pytest.raises(UserError, match=r"scores\.npz: cannot be written \(No such file or directory\)$"):
        write_scores(tmp_path / "missing", verb=one_hot(VERBS, 97))


def test_saved_scores_are_read_without_pickle(tmp_path):
    file = tmp_path / "pickled.npz"
    np.savez(file, narration_ids=np.array(IDS, dtype=object), verb=one_hot(VERBS, 97))
    with pytest.raises(UserError, match="cannot be read as scores"):
        read_run_scores(str(file), "verb")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated"])
def test_damaged_files_of_scores_raise_one_error(tmp_path, content):
    file = tmp_path / "damaged.npz"
    file.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as scores"):
        read_run_scores(str(file), "verb")
