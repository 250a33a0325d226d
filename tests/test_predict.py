"""Tests of the command dist_jax.predict: labels, table, JSON, plot, errors."""

import dataclasses
import json
import os
import subprocess
import sys

import matplotlib.image
import pytest
from helpers import small_models
from helpers.small_models import CLASSES
from helpers.video_files import write_video

from dist_jax import convert, predict
from dist_jax.errors import UserError
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import model_directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model directory with two views and three classes."""
    folder = tmp_path_factory.mktemp("predict")
    tokenizer = small_models.write_tokenizer(folder / "tokenizer")
    model = convert.with_classes(small_models.model(tokenizer=tokenizer), CLASSES)
    model_directory.write(
        folder / "model", dataclasses.replace(model, eval_protocol=small_models.eval_protocol(num_views=2))
    )
    return str(folder / "model")


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "grey.mp4")


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_json_and_a_plot(directory, video, tmp_path):
    short = write_video(tmp_path / "short.mp4", frames=3)
    command = [sys.executable, "-m", "dist_jax.predict", "--model", directory, "--video", video, "--video", short]
    outputs = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    outputs += ["--explain", str(tmp_path / "evidence.png")]
    process = subprocess.run([*command, *outputs, "--top", "2"], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    first, second = json.loads((tmp_path / "out.json").read_text())
    assert (first["video"], first["frames"]) == (video, [[5, 15, 25, 35], [10, 20, 30, 39]])
    assert [max(view) for view in second["frames"]] == [2, 2]
    classes = first["predictions"]
    assert len(classes) == 2
    assert classes[0]["probability"] >= classes[1]["probability"]
    width = max(len(one["label"]) for one in classes)
    assert f"{video} (2 views of 4 frames)" in process.stdout
    assert f"{classes[0]['label']:<{width}}  {100 * classes[0]['probability']:5.1f} %" in process.stdout
    image = matplotlib.image.imread(tmp_path / "out.png")
    assert image.shape[1] == 12 * 110
    assert image[..., :3].min() < 0.3
    assert {file.name for file in tmp_path.glob("evidence*")} == {"evidence.png", "evidence-2.png"}


def test_labels_replace_the_classes_of_the_model(directory, video, capsys):
    predict.main(["--model", directory, "--video", video, "--labels", "a fox, a hen"])
    printed = capsys.readouterr().out
    assert "a fox" in printed
    assert "a dog" not in printed


def test_unreadable_videos_are_skipped_and_listed_at_the_end(directory, video, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    videos = [tmp_path / "broken.mp4", video, tmp_path / "absent.mp4"]
    arguments = [part for path in videos for part in ("--video", str(path))]
    message = r"^2 of 3 videos could not be read: .*broken\.mp4: .*; .*absent\.mp4: "
    with pytest.raises(UserError, match=message) as error:
        predict.main(["--model", directory, *arguments, "--json", str(tmp_path / "out.json")])
    assert "\n" not in str(error.value)
    assert "grey.mp4 (2 views" in capsys.readouterr().out
    assert [one["video"] for one in json.loads((tmp_path / "out.json").read_text())] == [video]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top", "0"], "--top 0: must be at least 1"),
        (["--plot", "out.abc"], r"--plot out\.abc"),
        (["--json", "missing/out.json"], r"--json missing/out\.json"),
    ],
)
def test_invalid_arguments_raise_an_error(directory, video, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        predict.main(["--model", directory, "--video", video, *arguments])


@pytest.mark.skipif(sys.platform == "darwin", reason="all file names are UTF-8")
def test_a_video_whose_name_is_not_utf8_is_rejected(directory):
    with pytest.raises(UserError, match="this path is not UTF-8"):
        predict.main(["--model", directory, "--video", os.fsdecode(b"caf\xe9.mp4")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "missing/out.json"], r"--json missing/out\.json: No such file or directory: missing; create"),
        (["--explain", "missing/out.png"], r"--explain missing/out\.png: No such file"),
        (["--plot", "out.abc"], r"--plot out\.abc: unknown format; use one of .*pdf, .*png"),
        (["--explain", "out.abc"], r"--explain out\.abc: unknown format"),
        (["--json", "."], r"--json \.: is a folder"),
        (["--timeline", "--csv", "missing/out.csv"], r"--csv missing/out\.csv: No such file"),
    ],
)
def test_output_files_are_checked_before_the_model_is_loaded(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        predict.main(["--model", "no model", "--video", "no video", *arguments])


def test_json_on_standard_output_is_the_only_output(directory, video, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    predict.main(["--model", directory, "--video", video, "--json", "-"])
    assert [one["video"] for one in json.loads(capsys.readouterr().out)] == [video]
    assert not (tmp_path / "-").exists()


def test_the_json_file_is_written_when_a_later_output_fails(directory, video, tmp_path, monkeypatch):
    def fail(*_):
        raise UserError("--explain: no space")

    monkeypatch.setattr(predict.EvidencePictures, "add", fail)
    outputs = ["--json", str(tmp_path / "out.json"), "--explain", str(tmp_path / "out.png")]
    with pytest.raises(UserError, match="--explain: no space"):
        predict.main(["--model", directory, "--video", video, *outputs])
    assert [one["video"] for one in json.loads((tmp_path / "out.json").read_text())] == [video]


def test_a_tilde_is_the_home_folder(directory, video, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "names.txt").write_text("a\nb\n")
    predict.main(["--model", directory, "--video=~/grey.mp4", "--labels=~/names.txt", "--json=~/out.json"])
    assert json.loads((tmp_path / "out.json").read_text())[0]["video"] == video


def test_a_model_without_class_names_needs_labels(video, tmp_path):
    model_directory.write(tmp_path / "model", small_models.model())
    with pytest.raises(UserError, match="has no class names; use --labels"):
        predict.main(["--model", str(tmp_path / "model"), "--video", video])


@pytest.fixture
def clip_directory(tmp_path):
    """A plain CLIP as a Hugging Face directory with tokenizer."""
    clip_weights.save_huggingface(small_models.clip_model(), tmp_path / "clip")
    small_models.write_tokenizer(tmp_path / "clip")
    return str(tmp_path / "clip")


def test_plain_clip_classifies_any_labels(clip_directory, video, tmp_path, capsys):
    arguments = ["--model", clip_directory, "--video", video, "--json", str(tmp_path / "out.json")]
    predict.main([*arguments, "--labels", "a dog,a cat"])
    assert "grey.mp4 (3 views of 8 frames)" in capsys.readouterr().out
    classes = json.loads((tmp_path / "out.json").read_text())[0]["predictions"]
    assert {one["label"] for one in classes} == {"a dog", "a cat"}
    assert sum(one["probability"] for one in classes) == pytest.approx(1)
    with pytest.raises(UserError, match="has no class names; use --labels"):
        predict.main(arguments)


def test_a_probe_predicts_the_classes_of_the_chosen_label(clip_directory, video, tmp_path):
    class_names = {"verb": ("cut", "wash"), "noun": ("pan", "knife", "cup")}
    workdir = small_models.write_workdir(tmp_path / "run", clip_directory, "linear_probe", class_names)
    arguments = ["--model", workdir, "--video", video, "--json", str(tmp_path / "out.json")]
    predict.main([*arguments, "--label-key", "noun"])
    classes = json.loads((tmp_path / "out.json").read_text())[0]["predictions"]
    assert {one["label"] for one in classes} == {"pan", "knife", "cup"}
    with pytest.raises(UserError, match=r"has the labels verb, noun; choose one: .*--label-key"):
        predict.main(arguments)
    with pytest.raises(UserError, match="has its own classifier, so it cannot classify other labels; remove --labels"):
        predict.main([*arguments, "--label-key", "noun", "--labels", "a,b"])
