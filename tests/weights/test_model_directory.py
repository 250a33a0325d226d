"""Tests of model directories that are incomplete, damaged or of another format."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import small_models
from helpers.clip_files import change_tensors

import dist_jax
from dist_jax.errors import UserError
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import model_directory


@pytest.fixture
def directory(tmp_path):
    model_directory.write(tmp_path / "model", small_models.model())
    return tmp_path / "model"


def test_one_error_lists_all_mismatches(directory):
    def change(tensors):
        del tensors["clip/vision/proj"]
        tensors["dist/more"] = np.zeros(2)
        tensors["dist/proj"] = np.zeros((64, 31), np.float32)

    change_tensors(directory, change)
    with pytest.raises(UserError) as error:
        model_directory.read(directory)
    message = str(error.value)
    assert "clip/vision/proj is missing" in message
    assert "dist/more is unknown" in message
    assert "dist/proj has shape [64, 31], expected [64, 32]" in message
    assert "\n" not in message


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_tensor_file_is_an_error(directory, length):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(UserError, match=r"model\.safetensors: truncated"):
        dist_jax.load(directory)


def test_invalid_sizes_and_a_missing_tensor_file_are_an_error(directory):
    content = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(content | {"dist": {"num_frames": 4}}))
    with pytest.raises(UserError, match=r"config\.json is not the configuration of a model directory"):
        model_directory.read(directory)
    (directory / "config.json").write_text(json.dumps(content))
    (directory / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        model_directory.read(directory)


INVALID_CONFIGS = {
    "no eval_protocol": (lambda config: config.pop("eval_protocol"), "'eval_protocol' is missing"),
    "no clip": (lambda config: config.pop("clip"), "'clip' is missing"),
    "no fingerprint": (lambda config: config["clip"].pop("fingerprint"), "'fingerprint' is missing"),
    "incomplete eval_protocol": (lambda config: config["eval_protocol"].pop("num_views"), "num_views"),
    "an unknown field": (lambda config: config["eval_protocol"].update(colour=1), "colour"),
    "an unknown size": (lambda config: config["vision"].update(colour=1), "colour"),
}


@pytest.mark.parametrize(("change", "message"), INVALID_CONFIGS.values(), ids=INVALID_CONFIGS)
def test_an_invalid_config_is_an_error(directory, change, message):
    config = json.loads((directory / "config.json").read_text())
    change(config)
    (directory / "config.json").write_text(json.dumps(config))
    for read in (model_directory.read, model_directory.read_dist):
        with pytest.raises(UserError, match=rf"config\.json is not the configuration of a model directory .*{message}"):
            read(directory)


@pytest.mark.parametrize("names", [("a", " b"), ("a\nb",), ("a\u2028b",), ("a\x1cb",), ("",), ("a", "b", "a")])
def test_class_names_that_labels_txt_cannot_represent_are_an_error(tmp_path, names):
    features = np.zeros((len(names), 32), np.float32)
    with pytest.raises(UserError, match=r"class name"):
        model_directory.write(
            tmp_path / "model", dataclasses.replace(small_models.model(), class_names=names, text_features=features)
        )
    assert not (tmp_path / "model").exists()


def test_format_2_is_read_with_mlps_of_four_times_the_width(directory):
    config = json.loads((directory / "config.json").read_text())
    for tower in ("vision", "text"):
        assert config[tower].pop("mlp_dim") == 4 * config[tower]["width"]
    model = model_directory.read(directory)
    (directory / "config.json").write_text(json.dumps(config | {"format": "dist_jax model 2"}))
    older = model_directory.read(directory)
    assert (older.clip_model.vision, older.clip_model.text) == (model.clip_model.vision, model.clip_model.text)


def test_another_mlp_width_is_kept(tmp_path):
    vision = dataclasses.replace(small_models.VISION, mlp_dim=200)
    model_directory.write(tmp_path / "model", small_models.model(vision=vision))
    assert model_directory.read(tmp_path / "model").clip_model.vision == vision


def test_all_files_have_the_permissions_of_new_files(tmp_path):
    tokenizer = Path(small_models.write_tokenizer(tmp_path / "tokenizer"))
    (tokenizer / "vocab.json").chmod(0o600)
    clip_model = small_models.clip_model(tokenizer=str(tokenizer))
    umask = os.umask(0o027)
    try:
        model_directory.write(tmp_path / "model", dataclasses.replace(small_models.model(), clip_model=clip_model))
        clip_weights.save_huggingface(clip_model, tmp_path / "clip")
    finally:
        os.umask(umask)
    files = [*(tmp_path / "model").iterdir(), *(tmp_path / "clip").iterdir()]
    assert {file.name: oct(file.stat().st_mode) for file in files} == {file.name: "0o100640" for file in files}


def test_an_older_format_is_an_error_in_one_line(directory):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"format": "dist_jax model 1"}))
    with pytest.raises(
        UserError, match=r"has format 'dist_jax model 1', this dist_jax reads 'dist_jax model 2' and 'dist_jax model 3'"
    ) as error:
        dist_jax.load(directory)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("names", ["b\na\nc\n", "a\nb\n", None])
def test_class_names_that_are_not_those_of_the_text_features_are_an_error(tmp_path, names):
    text_features = np.eye(3, 32, dtype=np.float32)
    model = dataclasses.replace(small_models.model(), class_names=("a", "b", "c"), text_features=text_features)
    model_directory.write(tmp_path / "model", model)
    assert model_directory.read(tmp_path / "model").class_names == ("a", "b", "c")
    labels = tmp_path / "model" / "labels.txt"
    labels.unlink() if names is None else labels.write_text(names)
    problem = "is missing, which has the class names of" if names is None else "has other class names than"
    with pytest.raises(UserError, match=rf"labels\.txt {problem} the text features in model\.safetensors; restore it"):
        model_directory.read(tmp_path / "model")


def test_load_finds_a_model_directory_in_the_home_folder(directory, monkeypatch):
    monkeypatch.setenv("HOME", str(directory.parent))
    assert dist_jax.load("~/model").class_names == model_directory.read(directory).class_names
