"""Tests of loading CLIP from every format that needs no PyTorch, and of writing it."""

import fnmatch
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization, traverse_util
from golden.tiny import state_dict
from helpers.clip_files import OPEN_CLIP, OPENAI, assert_same_weights, change_config, change_tensors, write
from safetensors.numpy import load_file, save_file

from dist_jax.errors import UserError
from dist_jax.models.backbones.text_tower import TextConfig
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import table
from dist_jax.weights.openai_sizes import ClipSettings


def test_sizes_are_read_from_the_tensors(original):
    assert original.vision == VisionConfig(
        width=128, num_layers=3, num_heads=2, patch_size=16, resolution=48, embed_dim=64
    )
    assert original.text == TextConfig(
        width=64, num_layers=2, num_heads=1, vocab_size=200, context_length=16, embed_dim=64
    )
    assert original.params["vision"]["blocks"]["attention"]["query"]["kernel"].shape == (3, 128, 2, 64)
    assert original.tokenizer is None


def test_the_joint_attention_projection_is_split_into_query_key_and_value(original):
    joint = OPENAI["visual.transformer.resblocks.1.attn.in_proj_weight"]  # [3 * 128, 128]
    key = original.params["vision"]["blocks"]["attention"]["key"]["kernel"]  # [L, width, heads, width / heads]
    assert key[1, 5, 1, 7] == joint[128 + 64 + 7, 5]


def test_the_conversion_to_openai_names_is_exact(original):
    tensors = clip_weights.to_openai(original)
    assert tensors.keys() == OPENAI.keys()
    for name, value in OPENAI.items():
        assert tensors[name].tobytes() == value.tobytes(), name


QUICK_GELU = ClipSettings("quick_gelu", (2, 1))


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.base_encoder."])
def test_prefixes_and_a_dist_network_in_the_file_are_ignored(original, tmp_path, prefix):
    file = write(tmp_path / "model.safetensors", {prefix + name: value for name, value in state_dict().items()})
    assert_same_weights(clip_weights.load(file), original)


def test_a_hugging_face_directory_loads(original, huggingface):
    loaded = clip_weights.load(str(huggingface))
    assert (loaded.vision, loaded.text) == (original.vision, original.text)
    assert loaded.name == str(huggingface)
    assert_same_weights(loaded, original)


def test_sharded_safetensors_load_if_the_index_matches(original, huggingface):
    tensors = load_file(huggingface / "model.safetensors")
    (huggingface / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == file}, huggingface / file)
    (huggingface / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same_weights(clip_weights.load(str(huggingface)), original)

    weight_map["extra"] = weight_map[names[0]]
    (huggingface / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError, match=r"index and its files differ.*extra"):
        clip_weights.load(str(huggingface))


def test_a_hugging_face_flax_model_loads(original, huggingface):
    tree = {}
    for name, value in load_file(huggingface / "model.safetensors").items():
        is_token = "token_embedding" in name or "position_embedding" in name
        kinds = {1: "scale", 2: "embedding" if is_token else "kernel", 4: "kernel"}
        *layer, last = name.removesuffix(".weight").split(".") + ([kinds[value.ndim]] if ".weight" in name else [])
        if last == "kernel":
            value = value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0))
        tree[(*layer, last)] = value
    assert tree[("vision_model", "encoder", "layers", "0", "mlp", "fc1", "kernel")].shape == (128, 512)
    (huggingface / "model.safetensors").unlink()
    file = huggingface / "flax_model.msgpack"
    file.write_bytes(serialization.msgpack_serialize(traverse_util.unflatten_dict(tree)))
    assert_same_weights(clip_weights.load(str(huggingface)), original)

    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match="truncated or not a Flax file"):
        clip_weights.load(str(huggingface))


def test_heads_and_activation_come_from_the_open_clip_config(original, tmp_path):
    write(tmp_path / "open_clip_model.safetensors", OPENAI, open_clip_config=OPEN_CLIP)
    loaded = clip_weights.load(str(tmp_path))
    assert (loaded.vision.num_heads, loaded.text.num_heads) == (4, 4)
    assert (loaded.vision.activation, loaded.text.activation) == ("quick_gelu", "quick_gelu")
    assert loaded.fingerprint != original.fingerprint  # the number of heads changes the network

    gelu_config = {"model_cfg": {**OPEN_CLIP["model_cfg"], "quick_gelu": False}}
    write(tmp_path / "open_clip_model.safetensors", OPENAI, open_clip_config=gelu_config)
    assert clip_weights.load(str(tmp_path)).vision.activation == "gelu"


@pytest.mark.parametrize("tensors", [OPENAI | {"input_resolution": np.asarray(48)}, state_dict()], ids=["pt", "pyth"])
def test_config_files_next_to_a_published_file_are_ignored(original, tmp_path, tensors):
    config = {
        **OPEN_CLIP,
        "model_cfg": {**OPEN_CLIP["model_cfg"], "quick_gelu": False},
        "preprocess_cfg": {"mean": [0.5]},
    }
    loaded = clip_weights.load(write(tmp_path / "ViT.safetensors", tensors, open_clip_config=config))
    assert (loaded.vision, loaded.text) == (original.vision, original.text)


def timm_repository(folder: Path) -> Path:
    """A timm repository of an open_clip model: the same network with the names of both projects."""
    write(folder / "open_clip_model.safetensors", OPENAI, open_clip_config={**OPEN_CLIP, "preprocess_cfg": None})
    write(
        folder / "model.safetensors",
        {"blocks.0.attn.qkv.weight": np.zeros(3, np.float32)},
        config={"architecture": "vit"},
    )
    return folder


def test_a_timm_repository_loads_the_open_clip_weights(tmp_path):
    assert clip_weights.load(str(timm_repository(tmp_path))).vision.num_heads == 4


def test_timm_weights_are_not_downloaded(tmp_path, monkeypatch):
    repository, cache = timm_repository(tmp_path / "repository"), tmp_path / "cache"
    cache.mkdir()

    def download(_, patterns):
        for file in repository.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in patterns):
                shutil.copy(file, cache)
        return cache

    monkeypatch.setattr("dist_jax.hub.download", download)
    assert clip_weights.load("timm/vit").vision.num_heads == 4
    assert (cache / "open_clip_model.safetensors").is_file()
    assert not (cache / "model.safetensors").exists()


def test_heads_activation_and_end_token_come_from_the_hugging_face_config(huggingface):
    change_config(huggingface, "vision_config", num_attention_heads=8, hidden_act="gelu")
    change_config(huggingface, "text_config", num_attention_heads=4, eos_token_id=199)
    loaded = clip_weights.load(str(huggingface))
    assert (loaded.vision.num_heads, loaded.vision.activation) == (8, "gelu")
    assert (loaded.text.num_heads, loaded.text.activation, loaded.text.end_token) == (4, "quick_gelu", 199)


def test_an_image_tower_without_text_tower_loads(original, tmp_path, capsys):
    vision = {name: value for name, value in OPENAI.items() if name.startswith("visual.")}
    loaded = clip_weights.from_openai(vision, "vision")
    assert loaded.text is None
    assert "no logit_scale" in capsys.readouterr().err
    np.testing.assert_allclose(loaded.params["logit_scale"], np.log(100), rtol=1e-6)
    clip_weights.save_huggingface(loaded, tmp_path)
    reloaded = clip_weights.load(str(tmp_path))
    assert (reloaded.vision, reloaded.text) == (loaded.vision, None)
    assert_same_weights(reloaded, loaded)


def test_known_buffers_are_ignored(original, huggingface):
    positions = np.arange(16)[None]
    change_tensors(huggingface, lambda tensors: tensors.update({"text_model.embeddings.position_ids": positions}))
    assert_same_weights(clip_weights.load(str(huggingface)), original)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_half_precision_files_load_in_float32(tmp_path, dtype):
    halves = {name: value.astype(dtype) for name, value in OPENAI.items()}
    loaded = clip_weights.load(write(tmp_path / "clip.safetensors", halves), settings=QUICK_GELU)
    expected = clip_weights.from_openai({n: v.astype(dtype).astype(np.float32) for n, v in OPENAI.items()}, "expected")
    assert_same_weights(loaded, expected)


def test_place_is_called_once_per_parameter_in_float32(huggingface):
    placed = {}

    def place(path: str, value: np.ndarray) -> jax.Array:
        assert path not in placed
        placed[path] = value.dtype
        return jax.device_put(value, jax.devices()[-1])

    loaded = clip_weights.load(str(huggingface), place=place)
    assert placed.keys() == table.flatten(loaded.params).keys()
    assert set(placed.values()) == {np.dtype(np.float32)}
    assert loaded.params["vision"]["proj"].devices() == {jax.devices()[-1]}


def test_other_values_change_the_fingerprint(original):
    other = {**OPENAI, "visual.proj": OPENAI["visual.proj"] + np.eye(128, 64, dtype=np.float32)}
    assert clip_weights.from_openai(other, "other").fingerprint != original.fingerprint


def test_another_resolution_changes_only_the_positions(original, huggingface):
    loaded = clip_weights.load(str(huggingface), resolution=80)
    assert (loaded.vision.resolution, loaded.vision.num_patches) == (80, 25)
    assert loaded.fingerprint == original.fingerprint
    positions = loaded.params["vision"].pop("positions")
    assert positions.shape == (26, 128)
    np.testing.assert_array_equal(positions[0], original.params["vision"]["positions"][0])
    for path, leaf in table.flatten(loaded.params).items():
        np.testing.assert_array_equal(leaf, table.flatten(original.params)[path])
