"""CLIP's weights from files that need no PyTorch: formats, sizes, casts, positions, and what can be wrong."""

import copy
import dataclasses
import fnmatch
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization, traverse_util
from golden.tiny import state_dict
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from dist_jax.errors import UserError
from dist_jax.models.backbones.clip_text import TextConfig
from dist_jax.models.backbones.clip_vision import VisionConfig
from dist_jax.weights import clip, table

OPENAI = {name: value for name, value in state_dict().items() if not name.startswith("dist_net.")}
OPEN_CLIP = {  # open_clip_config.json
    "model_cfg": {
        "embed_dim": 64,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 48, "layers": 3, "width": 128, "patch_size": 16, "head_width": 32},
        "text_cfg": {"context_length": 16, "vocab_size": 200, "width": 64, "heads": 4, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]},
}


def write(path: Path, tensors: dict, **configs: dict) -> str:
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path)
    for name, config in configs.items():
        (path.parent / f"{name}.json").write_text(json.dumps(config))
    return str(path)


@pytest.fixture(scope="module")
def original() -> clip.ClipModel:
    return clip.from_openai(OPENAI, "original")


@pytest.fixture
def huggingface(original, tmp_path) -> Path:
    clip.save_huggingface(original, tmp_path / "clip")
    return tmp_path / "clip"


def edit(directory: Path, change) -> None:
    """Changes what the model.safetensors of a directory holds."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def configure(directory: Path, tower: str = "", **fields: object) -> None:
    """Changes a directory's config.json."""
    config = json.loads((directory / "config.json").read_text())
    (config[tower] if tower else config).update(fields)
    (directory / "config.json").write_text(json.dumps(config))


def assert_same(one: clip.ClipModel, other: clip.ClipModel) -> None:
    assert one.fingerprint == other.fingerprint
    for path, leaf in table.flatten(one.params).items():
        np.testing.assert_array_equal(leaf, table.flatten(other.params)[path], err_msg=path)


# Formats


def test_sizes_are_those_of_the_tensors(original):
    assert original.vision == VisionConfig(
        width=128, num_layers=3, num_heads=2, patch_size=16, resolution=48, embed_dim=64
    )
    assert original.text == TextConfig(
        width=64, num_layers=2, num_heads=1, vocab_size=200, context_length=16, embed_dim=64
    )
    assert original.params["vision"]["blocks"]["attention"]["query"]["kernel"].shape == (3, 128, 2, 64)
    assert original.tokenizer is None


def test_an_in_projection_by_hand(original):
    joint = OPENAI["visual.transformer.resblocks.1.attn.in_proj_weight"]  # [3 * 128, 128]
    key = original.params["vision"]["blocks"]["attention"]["key"]["kernel"]  # [L, width, heads, width / heads]
    assert key[1, 5, 1, 7] == joint[128 + 64 + 7, 5]


def test_back_to_openai_bit_for_bit(original):
    back = clip.to_openai(original)
    assert back.keys() == OPENAI.keys()
    for name, value in OPENAI.items():
        assert back[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize(
    ("tower", "sizes", "message"),
    [
        ("vision", dict(heads=4), "vision heads are 4 where its width implies 2"),
        ("vision", dict(activation="gelu"), "vision activation is gelu where quick_gelu is taken"),
        ("text", dict(activation="gelu"), "text activation is gelu where quick_gelu is taken"),
        ("text", dict(end_token=40), "text end_token is 40 where the largest id, 199, is read"),
    ],
)
def test_what_openais_names_cannot_say_is_refused(original, tower, sizes, message):
    other = dataclasses.replace(original, **{tower: dataclasses.replace(getattr(original, tower), **sizes)})
    with pytest.raises(UserError, match=f"cannot express original: {message}$"):
        clip.to_openai(other)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.base_encoder."])
def test_prefixes_and_a_dist_network_beside(original, tmp_path, prefix):
    file = write(tmp_path / "model.safetensors", {prefix + name: value for name, value in state_dict().items()})
    assert_same(clip.load(file), original)


def test_a_hugging_face_directory(original, huggingface):
    loaded = clip.load(str(huggingface))
    assert (loaded.vision, loaded.text) == (original.vision, original.text)
    assert loaded.name == str(huggingface)
    assert_same(loaded, original)


def test_sharded_safetensors(original, huggingface):
    tensors = load_file(huggingface / "model.safetensors")
    (huggingface / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == file}, huggingface / file)
    (huggingface / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same(clip.load(str(huggingface)), original)

    weight_map["extra"] = weight_map[names[0]]
    (huggingface / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError, match=r"index and its files differ.*extra"):
        clip.load(str(huggingface))


def test_a_flax_model_of_hugging_face(original, huggingface):
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
    assert_same(clip.load(str(huggingface)), original)

    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match="truncated or not a Flax file"):
        clip.load(str(huggingface))


def test_open_clip_says_heads_and_activation(original, tmp_path):
    write(tmp_path / "open_clip_model.safetensors", OPENAI, open_clip_config=OPEN_CLIP)
    loaded = clip.load(str(tmp_path))
    assert (loaded.vision.num_heads, loaded.text.num_heads) == (4, 4)
    assert (loaded.vision.activation, loaded.text.activation) == ("quick_gelu", "quick_gelu")
    assert loaded.fingerprint != original.fingerprint  # other heads, another network

    exact = {"model_cfg": {**OPEN_CLIP["model_cfg"], "quick_gelu": False}}
    write(tmp_path / "open_clip_model.safetensors", OPENAI, open_clip_config=exact)
    assert clip.load(str(tmp_path)).vision.activation == "gelu"


@pytest.mark.parametrize("tensors", [OPENAI | {"input_resolution": np.asarray(48)}, state_dict()], ids=["pt", "pyth"])
def test_what_is_published_whole_asks_no_neighbours(original, tmp_path, tensors):
    config = {
        **OPEN_CLIP,
        "model_cfg": {**OPEN_CLIP["model_cfg"], "quick_gelu": False},
        "preprocess_cfg": {"mean": [0.5]},
    }
    loaded = clip.load(write(tmp_path / "ViT.safetensors", tensors, open_clip_config=config))
    assert (loaded.vision, loaded.text) == (original.vision, original.text)


def timm_repository(folder: Path) -> Path:
    """What timm's copies of open_clip's models hold: the same network in both projects' names."""
    write(folder / "open_clip_model.safetensors", OPENAI, open_clip_config={**OPEN_CLIP, "preprocess_cfg": None})
    write(
        folder / "model.safetensors",
        {"blocks.0.attn.qkv.weight": np.zeros(3, np.float32)},
        config={"architecture": "vit"},
    )
    return folder


def test_beside_timms_weights_open_clips_are_taken(tmp_path):
    assert clip.load(str(timm_repository(tmp_path))).vision.num_heads == 4


def test_timms_weights_are_not_downloaded(tmp_path, monkeypatch):
    repository, cache = timm_repository(tmp_path / "repository"), tmp_path / "cache"
    cache.mkdir()

    def download(_, patterns):
        for file in repository.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in patterns):
                shutil.copy(file, cache)
        return cache

    monkeypatch.setattr("dist_jax.hub.download", download)
    assert clip.load("timm/vit").vision.num_heads == 4
    assert (cache / "open_clip_model.safetensors").is_file()
    assert not (cache / "model.safetensors").exists()


def test_an_activation_that_nothing_says_is_told(tmp_path, capsys):
    clip.load(write(tmp_path / "published.safetensors", state_dict()))
    assert not capsys.readouterr().err
    assert clip.load(write(tmp_path / "clip.safetensors", OPENAI)).vision.activation == "quick_gelu"
    printed = capsys.readouterr().err
    assert printed.startswith("warning: ")
    assert "QuickGELU" in printed


def test_heads_activation_and_end_token_of_a_hugging_face_config(huggingface):
    configure(huggingface, "vision_config", num_attention_heads=8, hidden_act="gelu")
    configure(huggingface, "text_config", num_attention_heads=4, eos_token_id=199)
    loaded = clip.load(str(huggingface))
    assert (loaded.vision.num_heads, loaded.vision.activation) == (8, "gelu")
    assert (loaded.text.num_heads, loaded.text.activation, loaded.text.end_token) == (4, "quick_gelu", 199)


def test_an_image_tower_alone(original, tmp_path, capsys):
    vision = {name: value for name, value in OPENAI.items() if name.startswith("visual.")}
    loaded = clip.from_openai(vision, "vision")
    assert loaded.text is None
    assert "no logit_scale" in capsys.readouterr().err
    np.testing.assert_allclose(loaded.params["logit_scale"], np.log(100), rtol=1e-6)
    clip.save_huggingface(loaded, tmp_path)
    again = clip.load(str(tmp_path))
    assert (again.vision, again.text) == (loaded.vision, None)
    assert_same(again, loaded)


def test_known_buffers_may_be_there(original, huggingface):
    positions = np.arange(16)[None]
    edit(huggingface, lambda tensors: tensors.update({"text_model.embeddings.position_ids": positions}))
    assert_same(clip.load(str(huggingface)), original)


# Types and places


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_half_precision_files(tmp_path, dtype):
    file = write(tmp_path / "clip.safetensors", {name: value.astype(dtype) for name, value in OPENAI.items()})
    loaded = clip.load(file)
    expected = clip.from_openai({n: v.astype(dtype).astype(np.float32) for n, v in OPENAI.items()}, "expected")
    assert_same(loaded, expected)


def test_place_gets_every_parameter_once_in_float32(huggingface):
    seen = {}

    def place(path: str, value: np.ndarray) -> jax.Array:
        assert path not in seen
        seen[path] = value.dtype
        return jax.device_put(value, jax.devices()[-1])

    loaded = clip.load(str(huggingface), place=place)
    assert seen.keys() == table.flatten(loaded.params).keys()
    assert set(seen.values()) == {np.dtype(np.float32)}
    assert loaded.params["vision"]["proj"].devices() == {jax.devices()[-1]}


def test_one_value_changes_the_fingerprint(original):
    other = {**OPENAI, "visual.proj": OPENAI["visual.proj"] + np.eye(128, 64, dtype=np.float32)}
    assert clip.from_openai(other, "other").fingerprint != original.fingerprint


# Positions


def test_another_resolution_interpolates_positions_alone(original, huggingface):
    loaded = clip.load(str(huggingface), resolution=80)
    assert (loaded.vision.resolution, loaded.vision.num_patches) == (80, 25)
    assert loaded.fingerprint == original.fingerprint
    positions = loaded.params["vision"].pop("positions")
    assert positions.shape == (26, 128)
    np.testing.assert_array_equal(positions[0], original.params["vision"]["positions"][0])
    for path, leaf in table.flatten(loaded.params).items():
        np.testing.assert_array_equal(leaf, table.flatten(original.params)[path])


def test_bicubic_by_hand():
    row = np.array([0.0, 0.0, 0.0, 1.0])
    positions = np.concatenate([[9.0], np.tile(row, 4)])[:, None].astype(np.float32)  # four equal rows of four
    found = clip.resize_positions(positions, 8)
    # Twice as fine: a new centre lies a quarter of a pixel beside an old one; the kernel with a = -0.75 is
    # -0.10546875, 0.87890625, 0.26171875, -0.03515625 there, and pixels beyond the border repeat the last one.
    expected = [0, 0, 0, -0.03515625, -0.10546875, 0.26171875 - 0.03515625, 0.87890625 - 0.10546875, 1.10546875]
    np.testing.assert_allclose(found[1:9, 0], expected, atol=1e-6)
    assert found[0, 0] == 9


@given(st.integers(1, 9), st.integers(1, 9))
def test_constant_positions_stay_and_the_same_grid_changes_nothing(old, new):
    constant = np.full((1 + old * old, 2), 0.5, np.float32)
    np.testing.assert_allclose(clip.resize_positions(constant, new), np.full((1 + new * new, 2), 0.5), rtol=1e-6)
    drawn = np.random.default_rng(old).standard_normal(constant.shape).astype(np.float32)
    np.testing.assert_array_equal(clip.resize_positions(drawn, old), drawn)


def test_a_resolution_between_patches_is_refused(huggingface):
    with pytest.raises(UserError, match="resolution 50 is not a multiple of 16"):
        clip.load(str(huggingface), resolution=50)


# Bad input


def test_all_mismatches_are_told_at_once():
    wrong = dict(OPENAI)
    del wrong["ln_final.bias"]
    wrong["visual.extra"] = np.zeros(3, np.float32)
    wrong["visual.ln_pre.weight"] = np.ones(99, np.float32)
    with pytest.raises(UserError) as caught:
        clip.from_openai(wrong, "somewhere")
    message = str(caught.value)
    assert "somewhere" in message
    assert "\n" not in message
    assert "ln_final.bias is missing" in message
    assert "visual.extra is not known" in message
    assert "visual.ln_pre.weight has shape [99] where [128] is needed" in message


@pytest.mark.parametrize("name", sorted(name for name in OPENAI if "resblocks" not in name))
def test_any_missing_tensor_is_named(name):
    with pytest.raises(UserError, match=f"{name} is missing"):
        clip.from_openai({key: value for key, value in OPENAI.items() if key != name}, "here")


def test_a_missing_layer_of_a_hugging_face_model(huggingface):
    configure(huggingface, "vision_config", num_hidden_layers=4)
    with pytest.raises(UserError, match=r"16 tensors do not fit: vision_model\.encoder\.layers\.3\."):
        clip.load(str(huggingface))


@pytest.mark.parametrize("length", [0, 5, 200, -8])
def test_truncated_safetensors(huggingface, length):
    file = huggingface / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(UserError, match=r"model\.safetensors: truncated"):
        clip.load(str(huggingface))


def test_a_resnet_is_refused():
    with pytest.raises(UserError, match="ResNet"):
        clip.from_openai({**OPENAI, "visual.layer1.0.conv1.weight": np.zeros((4, 4, 1, 1), np.float32)}, "RN50.pt")


def test_another_kind_of_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no CLIP: its tensors are bert\.embeddings"):
        clip.load(write(tmp_path / "model.safetensors", {"bert.embeddings": np.zeros(3, np.float32)}))


@pytest.mark.parametrize(
    ("tower", "fields", "message"),
    [
        ("", {"model_type": "siglip"}, "model_type is 'siglip'"),
        ("vision_config", {"hidden_act": "relu"}, "activation 'relu'"),
        ("text_config", {"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06"),
        ("vision_config", {"num_attention_heads": 5}, "width 128 cannot be split into 5"),
    ],
)
def test_configs_of_other_networks_are_refused(huggingface, tower, fields, message):
    configure(huggingface, tower, **fields)
    with pytest.raises(UserError, match=message):
        clip.load(str(huggingface))


@pytest.mark.parametrize(("tower", "key"), [("vision_cfg", "pool_type"), ("text_cfg", "hf_model_name")])
def test_open_clip_models_of_other_architectures_are_refused(tmp_path, tower, key):
    config = copy.deepcopy(OPEN_CLIP)
    config["model_cfg"][tower][key] = "other"
    write(tmp_path / "open_clip_model.safetensors", OPENAI, open_clip_config=config)
    with pytest.raises(UserError, match=f"{tower}.{key}"):
        clip.load(str(tmp_path))


def test_another_normalisation_is_refused(tmp_path):
    config = {**OPEN_CLIP, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    write(tmp_path / "open_clip_model.safetensors", OPENAI, open_clip_config=config)
    with pytest.raises(UserError, match=r"mean is \[0.5, 0.5, 0.5\]"):
        clip.load(str(tmp_path))


def test_configs_that_are_not_there(huggingface, tmp_path):
    (huggingface / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is not beside it"):
        clip.load(str(huggingface))
    with pytest.raises(UserError, match=r"open_clip_config\.json is not beside it"):
        clip.load(write(tmp_path / "other" / "open_clip_model.safetensors", OPENAI))


def test_places_without_weights(tmp_path):
    with pytest.raises(UserError, match=r"none of model\.safetensors"):
        clip.load(str(tmp_path))
    with pytest.raises(UserError, match="no such file or directory"):
        clip.load(str(tmp_path / "nothing"))


def test_a_pytorch_file_without_pytorch(tmp_path, monkeypatch):
    (tmp_path / "ViT-B-16.pt").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails, installed or not
    with pytest.raises(UserError, match="pip install torch"):
        clip.load(str(tmp_path / "ViT-B-16.pt"))


@pytest.mark.parametrize("error", [httpx.ConnectError("no route\nto host"), httpx.ReadTimeout(""), OSError("")])
def test_a_hub_that_fails(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(
        UserError, match=rf"somebody/something: .*\(({type(error).__name__}|no route)\); without network"
    ):
        clip.load("somebody/something")


def load_offline(identifier: str, cache: Path) -> subprocess.CompletedProcess:
    program = (
        "import sys; from dist_jax.errors import exit_with_message; from dist_jax.weights import clip; "
        "exit_with_message(lambda: print(clip.load(sys.argv[1]).fingerprint))"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", program, identifier], cwd=root, env=env, capture_output=True, text=True
    )


def test_a_hub_id_without_network(tmp_path):
    result = load_offline("somebody/something", tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "give their directory" in result.stderr


def test_a_hub_id_that_is_cached(original, huggingface, tmp_path):
    repository = tmp_path / "cache" / "models--somebody--tiny"
    shutil.copytree(huggingface, repository / "snapshots" / "0" / "")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    result = load_offline("somebody/tiny", tmp_path / "cache")
    assert result.stdout.strip() == original.fingerprint, result.stderr
