"""Complete runs with two labels (EPIC-KITCHENS-100) and with several labels per video."""

import csv
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import small_records
from helpers.training_run import SINGLE_DEVICE, make_config, run, save_clip

from dist_jax import epic
from dist_jax.data import records
from dist_jax.distributed.mesh import make_mesh
from dist_jax.errors import UserError
from dist_jax.evaluation.evaluate import evaluate

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]
NUM_VAL = 6
SHORT_RUN = {"steps": 2, "batch_size": 4, "mix__group_size": 2, "optimizer__warmup_epochs": 0.1}


def words(number: int) -> list[str]:
    """Different words of three letters."""
    return [chr(97 + i // 676) + chr(97 + i // 26 % 26) + chr(97 + i % 26) for i in range(number)]


def read_rows(file: Path) -> list[list[str]]:
    """The rows of a CSV file without its head."""
    with file.open() as stream:
        return [*csv.reader(stream)][1:]


def clip(number: int, **labels: object) -> bytes:
    images = [small_records.jpeg(small_records.picture(number, frame)) for frame in range(6)]
    label = labels.pop("label", None)
    return records.make_example(images, label, None, f"P{number:02}/{number}.mp4", 0, 240_000, **labels)


@pytest.fixture(scope="module")
def epic_data(tmp_path_factory) -> Path:
    """Records of eight training, six validation and three test segments, and the published annotation file."""
    folder = tmp_path_factory.mktemp("epic")
    segments = [(f"P{1 + i % 2:02}_01_{i}", 7 * i % 97, 31 * i % 300) for i in range(8 + NUM_VAL)]
    clips = [clip(i, verb=verb, noun=noun, narration_id=name) for i, (name, verb, noun) in enumerate(segments)]
    small_records.write_shards(folder, clips[:8], 2, "train")
    small_records.write_shards(folder, clips[8:], 1, "val")
    small_records.write_shards(folder, [clip(i, narration_id=f"P09_01_{i}") for i in range(3)], 1, "test")
    (folder / "labels.txt").unlink()
    (folder / "verbs.txt").write_text("\n".join(words(97)) + "\n")
    (folder / "nouns.txt").write_text("\n".join(words(300)) + "\n")
    (folder / "EPIC_100_unseen_participant_ids_validation.csv").write_text("participant_id\nP02\n")
    with (folder / "EPIC_100_validation.csv").open("w") as stream:
        writer = csv.writer(stream)
        writer.writerow(["narration_id", "participant_id", "verb_class", "noun_class"])
        writer.writerows([name, name[:3], verb, noun] for name, verb, noun in segments[8:])
    save_clip(folder / "clip")
    return folder


def test_a_run_with_verbs_and_nouns_evaluates_actions(epic_data, tmp_path, capsys):
    settings = SHORT_RUN | {
        "data__label_key": "verb,noun",
        "data__train": f"{epic_data}/train@2",
        "data__val": f"{epic_data}/val@1",
        "checkpoint__best_metric": "action_top1",
        "eval__epic_annotations": str(epic_data),
    }
    summary = run(epic_data, tmp_path / "run", SINGLE_DEVICE, **settings)
    assert (summary["videos"], summary["unseen_videos"]) == (NUM_VAL, 3)
    run_file = json.loads((tmp_path / "run" / "run.json").read_text())
    assert {name: len(names) for name, names in run_file["class_names"].items()} == {"verb": 97, "noun": 300}
    assert run_file["model"]["num_labels"] == 2
    assert {"verb_top1", "noun_top5", "action_top1"} <= summary.keys()
    written = json.loads((tmp_path / "run" / "results" / "val.json").read_text())
    assert written["action_top5"] == summary["action_top5"]
    rows = read_rows(tmp_path / "run" / "results" / "val_noun.csv")
    assert [row[0] for row in rows] == [f"P{1 + i % 2:02}_01_{i}" for i in range(8, 8 + NUM_VAL)]

    # The command computes the same accuracies from the saved scores.
    scores = str(tmp_path / "run" / "results" / "val_scores.npz")
    epic.main(["--scores", scores, "--annotations", str(epic_data / "EPIC_100_validation.csv")])
    cells = [f"{100 * summary[f'{k}_top1']:.1f} / {100 * summary[f'{k}_top5']:.1f}" for k in ("verb", "noun", "action")]
    assert f"| all | {NUM_VAL} | {' | '.join(cells)} |" in capsys.readouterr().out

    # The test set has no labels: the evaluation only writes scores.
    config = make_config(epic_data, SINGLE_DEVICE, **settings | {"data__val": f"{epic_data}/test@1"})
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    with pytest.raises(UserError, match=r"has no label 'verb'.*eval\.has_labels=False"):
        evaluate(config, str(tmp_path / "run"), mesh, "test")
    config.eval.has_labels = False
    assert evaluate(config, str(tmp_path / "run"), mesh, "test") == {"videos": 3}
    with np.load(tmp_path / "run" / "results" / "test_scores.npz") as arrays:
        assert arrays["narration_ids"].tolist() == ["P09_01_0", "P09_01_1", "P09_01_2"]
        assert (arrays["verb"].shape, arrays["noun"].shape) == ((3, 2, 97), (3, 2, 300))
        np.testing.assert_allclose(arrays["noun"].sum(axis=2), 1.0, rtol=1e-5)


def test_a_run_with_several_labels_per_video_reports_the_mean_average_precision(tmp_path):
    folder = tmp_path / "data"
    labels = [[0], [1, 2], [3], [], [0, 3], [2], [1], [4]]
    clips = [clip(number, label=of_clip) for number, of_clip in enumerate(labels)]
    small_records.write_shards(folder, clips, 2, "train")
    small_records.write_shards(folder, clips, 1, "val")
    (folder / "labels.txt").write_text("\n".join(words(5)) + "\n")
    save_clip(folder / "clip")
    settings = {"data__multi_label": True, "data__train": f"{folder}/train@2", "data__val": f"{folder}/val@1"}
    with pytest.raises(UserError, match=r"best_metric='top1': must be one of mean_average_precision"):
        run(folder, tmp_path / "run", SINGLE_DEVICE, **SHORT_RUN, **settings)
    settings["checkpoint__best_metric"] = "mean_average_precision"
    summary = run(folder, tmp_path / "run", SINGLE_DEVICE, **SHORT_RUN, **settings)
    assert summary["videos"] == len(labels)
    assert 0 < summary["mean_average_precision"] <= 1
    rows = read_rows(tmp_path / "run" / "results" / "val.csv")
    assert [row[1] for row in rows] == ["aaa", "aab|aac", "aad", "", "aaa|aad", "aac", "aab", "aae"]
