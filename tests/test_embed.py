"""Tests of the command dist_jax.embed: embedding a folder, search by text and video, contact sheet, errors."""

import dataclasses
import shutil

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
from helpers import small_models
from helpers.numbered_videos import write_numbered
from helpers.video_files import write_video

from dist_jax import embed
from dist_jax.errors import UserError
from dist_jax.inference import embedding_store
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import model_directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a model (m) and videos (v): two different ones, and a copy in a subfolder."""
    folder = tmp_path_factory.mktemp("embed")
    model = small_models.model(tokenizer=small_models.write_tokenizer(folder / "tokenizer"))
    protocol = small_models.eval_protocol(num_views=2)
    model_directory.write(folder / "m", dataclasses.replace(model, eval_protocol=protocol))
    model_directory.write(folder / "other", small_models.model(seed=5))
    (folder / "v" / "sub").mkdir(parents=True)
    write_video(folder / "v" / "grey.mp4")
    write_numbered(folder / "v" / "numbers.mp4")
    shutil.copy(folder / "v" / "grey.mp4", folder / "v" / "sub" / "copy.mp4")
    embed.main([*arguments(folder), "--output", str(folder / "e")])
    return folder


def arguments(folder):
    return ["--model", str(folder / "m"), "--videos", str(folder / "v")]


def results(printed):
    """Rows of a search: [number, similarity, time, path]."""
    return [line.split() for line in printed.splitlines()]


def test_a_video_finds_itself_and_its_copy(folder, tmp_path, capsys):
    search = ["--search", str(folder / "e"), "--query", str(folder / "v" / "grey.mp4")]
    embed.main([*search, "--top", "3", "--sheet", str(tmp_path / "sheet.png")])
    rows = results(capsys.readouterr().out)
    assert [row[3] for row in rows] == ["grey.mp4", "sub/copy.mp4", "numbers.mp4"]
    assert [row[1] for row in rows[:2]] == ["1.000", "1.000"]
    assert float(rows[2][1]) < 0.9995
    assert rows[0][2] == "0:00:00.0-0:00:02.0"
    assert rows[2][2] == "0:00:00.0-0:00:02.4"
    image = matplotlib.image.imread(tmp_path / "sheet.png")
    assert image.shape[1] == 13 * 110


def test_a_text_finds_the_vectors_with_the_largest_cosine(folder, capsys):
    embed.main(["--search", str(folder / "e"), "--query", "a dog"])
    rows = results(capsys.readouterr().out)
    model = embed.load_model(str(folder / "m"))
    spans, vectors = embedding_store.read(str(folder / "e"))
    cosines = dict(
        zip([span.path for span in spans], vectors @ np.asarray(model.encode_text(["a dog"]))[0], strict=True)
    )
    assert [row[3] for row in rows] == sorted(cosines, key=lambda path: (-round(float(cosines[path]), 5), path))
    assert [float(row[1]) for row in rows] == pytest.approx(sorted(cosines.values(), reverse=True), abs=6e-4)


def test_windows_continue_and_add_new_videos(folder, tmp_path, capsys):
    shutil.copytree(folder / "v", tmp_path / "v")
    (tmp_path / "v" / "sub" / "copy.mp4").unlink()
    command = ["--model", str(folder / "m"), "--videos", str(tmp_path / "v"), "--output", str(tmp_path / "e")]
    embed.main([*command, "--window", "1s", "--hop", "0.5"])
    assert "7 vectors of 2 videos" in capsys.readouterr().out  # 2.0 s: 3 windows, 2.4 s: 4
    first = embedding_store.read(str(tmp_path / "e"))
    shutil.copy(tmp_path / "v" / "grey.mp4", tmp_path / "v" / "new.mp4")
    embed.main([*command, "--window", "1s", "--hop", "0.5"])
    assert "10 vectors of 3 videos" in capsys.readouterr().out
    second = embedding_store.read(str(tmp_path / "e"))
    np.testing.assert_array_equal(first.vectors, second.vectors[:7])
    with pytest.raises(UserError, match=r"has embeddings with hop_s 0\.5 instead of None"):
        embed.main([*command, "--window", "1s"])


def test_the_videos_of_a_remote_folder_are_found_again(folder, tmp_path):
    tf.io.gfile.makedirs("ram://videos")
    tf.io.gfile.copy(str(folder / "v" / "grey.mp4"), "ram://videos/grey.mp4", overwrite=True)
    output = str(tmp_path / "e")
    for name in ("ram://videos", "ram://videos/"):  # the second command continues the job of the first one
        embed.main(["--model", str(folder / "m"), "--videos", name, "--output", output])
    assert embedding_store.read_settings(output)["videos"] == "ram://videos"
    embed.main(["--search", output, "--query", "a", "--sheet", str(tmp_path / "sheet.png")])
    assert (tmp_path / "sheet.png").exists()


def test_unreadable_videos_are_listed_at_the_end(folder, tmp_path, capsys):
    shutil.copytree(folder / "v", tmp_path / "v")
    (tmp_path / "v" / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "v" / "notes.txt").touch()
    command = ["--model", str(folder / "m"), "--videos", str(tmp_path / "v"), "--output", str(tmp_path / "e")]
    with pytest.raises(UserError, match=r"^1 videos could not be read .*; the others are in"):
        embed.main(command)
    printed = capsys.readouterr()
    assert "3 vectors of 3 videos" in printed.out
    assert "bad.mp4: cannot be read" in printed.err
    assert "skipped 1 hidden files or files without the suffix of a video" in printed.err


def test_another_model_is_refused(folder, capsys):
    with pytest.raises(UserError, match="has embeddings of another model"):
        embed.main(["--model", str(folder / "other"), "--videos", str(folder / "v"), "--output", str(folder / "e")])
    with pytest.raises(UserError, match="is not the model that made"):
        embed.main(["--search", str(folder / "e"), "--query", "a", "--model", str(folder / "other")])


def test_a_match_whose_video_is_gone_is_not_drawn(folder, tmp_path, capsys):
    shutil.copytree(folder / "v", tmp_path / "v")
    command = ["--model", str(folder / "m"), "--videos", str(tmp_path / "v"), "--output", str(tmp_path / "e")]
    embed.main(command)
    (tmp_path / "v" / "numbers.mp4").unlink()
    with pytest.raises(UserError, match=r"--sheet: 1 of 3 videos could not be read: .*numbers\.mp4"):
        embed.main(["--search", str(tmp_path / "e"), "--query", "a", "--sheet", str(tmp_path / "sheet.png")])
    assert (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "m"], "embedding videos needs --videos, --output"),
        (["--search", "e"], r"a search \(--search\) needs --query"),
        (["--search", "e", "--query", "a", "--window", "1s"], "does not use --window"),
        (["--model", "m", "--videos", "v", "--output", "e", "--sheet", "s.png"], "does not use --sheet"),
        (["--model", "m", "--videos", "v", "--output", "e", "--hop", "1"], "set their length with --window"),
        (["--search", "e", "--query", "a", "--top", "0"], "--top 0: must be at least 1"),
        (["--model", "m", "--videos", "v", "--output", "e", "--save-every", "0"], "--save-every 0: must be"),
        (["--model", "m", "--videos", "nowhere", "--output", "e"], "nowhere: no such folder"),
        (["--model", "m", "--videos", "m", "--output", "e"], r"m: no videos \(.*\); it has"),
        (["--search", "m", "--query", "a"], r"m has no settings\.json"),
        (["--search", "e", "--query", "gone.mp4"], r"gone\.mp4"),
    ],
)
def test_invalid_options_raise_an_error(folder, monkeypatch, options, message):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=message):
        embed.main(options)


@pytest.mark.parametrize(
    ("text", "message"), [("0s", "must be above 0"), ("1m", "is not a time"), ("nan", "is not a time")]
)
def test_a_window_is_a_time_above_0(folder, monkeypatch, text, message):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=rf"--window {text}: {message}"):
        embed.main(["--model", "m", "--videos", "v", "--output", "e", "--window", text])


def test_a_probe_has_no_embeddings(folder, tmp_path):
    clip_weights.save_huggingface(small_models.clip_model(), tmp_path / "clip")
    workdir = small_models.write_workdir(tmp_path / "run", str(tmp_path / "clip"), "linear_probe")
    with pytest.raises(UserError, match="has its own classifier and no video embeddings"):
        embed.main(["--model", workdir, "--videos", str(folder / "v"), "--output", str(tmp_path / "e")])
    assert not (tmp_path / "e").exists()
