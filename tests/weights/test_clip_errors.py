"""Tests of CLIP weights that cannot be loaded or written: every error names the file and the problem."""

import copy
import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from helpers.clip_files import OPEN_CLIP, OPENAI, change_config, write

from dist_jax.errors import UserError
from dist_jax.weights import clip as clip_weights


def test_one_error_lists_all_mismatches():
    tensors = dict(OPENAI)
    del tensors["ln_final.bias"]
    tensors["visual.extra"] = np.zeros(3, np.float32)
    tensors["visual.ln_pre.weight"] = np.ones(99, np.float32)
    with pytest.raises(UserError) as error:
        clip_weights.from_openai(tensors, "somewhere")
    message = str(error.value)
    assert "somewhere" in message
    assert "\n" not in message
    assert "ln_final.bias is missing" in message
    assert "visual.extra is unknown" in message
    assert "visual.ln_pre.weight has shape [99], expected [128]" in message


@pytest.mark.parametrize("name", sorted(name for name in OPENAI if "resblocks" not in name))
def test_every_missing_tensor_is_an_error(name):
    with pytest.raises(UserError, match=f"{name} is missing"):
        clip_weights.from_openai({key: value for key, value in OPENAI.items() if key != name}, "here")


def test_a_missing_layer_is_an_error(huggingface):
    change_config(huggingface, "vision_config", num_hidden_layers=4)
    with pytest.raises(UserError, match=r"16 tensors do not match: vision_model\.encoder\.layers\.3\."):
        clip_weights.load(str(huggingface))


@pytest.mark.parametrize("length", [0, 5, 200, -8])
def test_a_truncated_safetensors_file_is_an_error(huggingface, length):
    file = huggingface / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(UserError, match=r"model\.safetensors: truncated"):
        clip_weights.load(str(huggingface))


def test_a_resnet_is_an_error():
    with pytest.raises(UserError, match="ResNet"):
        clip_weights.from_openai(
            {**OPENAI, "visual.layer1.0.conv1.weight": np.zeros((4, 4, 1, 1), np.float32)}, "RN50.pt"
        )


def test_another_kind_of_model_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"not a CLIP; its tensors are bert\.embeddings"):
        clip_weights.load(write(tmp_path / "model.safetensors", {"bert.embeddings": np.zeros(3, np.float32)}))


@pytest.mark.parametrize(
    ("tower", "fields", "message"),
    [
        ("", {"model_type": "siglip"}, "model_type is 'siglip'"),
        ("vision_config", {"hidden_act": "relu"}, "activation 'relu'"),
        ("text_config", {"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06"),
        ("vision_config", {"num_attention_heads": 5}, "width 128 cannot be split into 5"),
    ],
)
def test_an_unsupported_hugging_face_config_is_an_error(huggingface, tower, fields, message):
    change_config(huggingface, tower, **fields)
    with pytest.raises(UserError, match=message):
        clip_weights.load(str(huggingface))


@pytest.mark.parametrize(("tower", "key"), [("vision_cfg", "pool_type"), ("text_cfg", "hf_model_name")])
def test_an_unsupported_open_clip_config_is_an_error(tmp_path, tower, key):
    config = copy.deepcopy(OPEN_CLIP)
    config["model_cfg"][tower][key] = "other"
    write(tmp_path / "open_clip_model.safetensors", OPENAI, open_clip_config=config)
    with pytest.raises(UserError, match=f"{tower}.{key}"):
        clip_weights.load(str(tmp_path))


def test_another_normalisation_is_an_error(tmp_path):
    config = {**OPEN_CLIP, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    write(tmp_path / "open_clip_model.safetensors", OPENAI, open_clip_config=config)
    with pytest.raises(UserError, match=r"mean is \[0.5, 0.5, 0.5\]"):
        clip_weights.load(str(tmp_path))


def test_a_missing_config_is_an_error(huggingface, tmp_path):
    (huggingface / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing in its directory"):
        clip_weights.load(str(huggingface))
    with pytest.raises(UserError, match=r"open_clip_config\.json is missing in its directory"):
        clip_weights.load(write(tmp_path / "other" / "open_clip_model.safetensors", OPENAI))


def test_a_directory_without_weights_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"none of model\.safetensors"):
        clip_weights.load(str(tmp_path))
    with pytest.raises(UserError, match="no such file or directory"):
        clip_weights.load(str(tmp_path / "nothing"))


def test_a_pytorch_file_needs_pytorch(tmp_path, monkeypatch):
    (tmp_path / "ViT-B-16.pt").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "torch", None)  # importing torch fails
    with pytest.raises(UserError, match="pip install torch"):
        clip_weights.load(str(tmp_path / "ViT-B-16.pt"))


@pytest.mark.parametrize("error", [httpx.ConnectError("no route\nto host"), httpx.ReadTimeout(""), OSError("")])
def test_a_failed_download_is_an_error(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(
        UserError, match=rf"somebody/something: .*\(({type(error).__name__}|no route)\); without network"
    ):
        clip_weights.load("somebody/something")


def load_offline(identifier: str, cache: Path) -> subprocess.CompletedProcess:
    program = (
        "import sys; from dist_jax.errors import exit_with_message; from dist_jax.weights import clip as clip_weights; "
        "exit_with_message(lambda: print(clip_weights.load(sys.argv[1]).fingerprint))"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", program, identifier], cwd=root, env=env, capture_output=True, text=True
    )


def test_an_uncached_hub_id_without_network_is_an_error(tmp_path):
    result = load_offline("somebody/something", tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "use their directory" in result.stderr


def test_a_cached_hub_id_needs_no_network(original, huggingface, tmp_path):
    repository = tmp_path / "cache" / "models--somebody--tiny"
    shutil.copytree(huggingface, repository / "snapshots" / "0" / "")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    result = load_offline("somebody/tiny", tmp_path / "cache")
    assert result.stdout.strip() == original.fingerprint, result.stderr


def test_a_resolution_that_is_no_multiple_of_the_patch_size_is_an_error(huggingface):
    with pytest.raises(UserError, match="resolution 50: must be a multiple of 16"):
        clip_weights.load(str(huggingface), resolution=50)


@pytest.mark.parametrize(
    ("tower", "sizes", "message"),
    [
        ("vision", dict(num_heads=4), "vision num_heads is 4, must be 2"),
        ("vision", dict(mlp_dim=500), "vision mlp_dim is 500, must be 512"),
        ("vision", dict(activation="gelu"), "vision activation is gelu, must be quick_gelu"),
        ("text", dict(activation="gelu"), "text activation is gelu, must be quick_gelu"),
        ("text", dict(end_token=40), "text end_token is 40, must be the largest id, 199"),
    ],
)
def test_sizes_that_openai_names_do_not_support_are_an_error(original, tower, sizes, message):
    other = dataclasses.replace(original, **{tower: dataclasses.replace(getattr(original, tower), **sizes)})
    with pytest.raises(UserError, match=f"does not support original: {message}$"):
        clip_weights.to_openai(other)


@pytest.mark.parametrize("index", ["[]", "null", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', "{"])
def test_a_damaged_index_of_shards_is_an_error(huggingface, index):
    (huggingface / "model.safetensors").unlink()
    (huggingface / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json: not an index|3: no such file"):
        clip_weights.load(str(huggingface))


@pytest.mark.parametrize("value", [None, "3", [14, 14], 0, True])
@pytest.mark.parametrize("name", ["num_attention_heads", "patch_size", "hidden_size"])
def test_a_size_that_is_no_positive_integer_is_an_error(huggingface, name, value):
    change_config(huggingface, "vision_config", **{name: value})
    with pytest.raises(UserError, match=rf"{name} is .*, must be a positive integer"):
        clip_weights.load(str(huggingface))
