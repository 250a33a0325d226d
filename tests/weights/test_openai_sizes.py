"""Sizes of CLIP variants: heads, hidden widths and activations, which not all files contain."""

import copy
import dataclasses
import math

import numpy as np
import pytest
from helpers import small_models
from helpers.clip_files import OPEN_CLIP, OPENAI, change_config, write

from dist_jax.errors import UserError
from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.backbones.text_tower import TextConfig
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import clip_configs, clip_formats, table
from dist_jax.weights.openai_sizes import ClipSettings, openai_sizes, stated_architecture
from dist_jax.weights.published_sizes import PUBLISHED

H14 = (
    VisionConfig(1280, 32, 16, patch_size=14, resolution=224, embed_dim=1024, activation="gelu"),
    TextConfig(1024, 24, 16, vocab_size=49408, context_length=77, embed_dim=1024, activation="gelu"),
)
G14 = (
    VisionConfig(1408, 40, 16, patch_size=14, resolution=224, embed_dim=1024, activation="gelu", mlp_dim=6144),
    H14[1],
)
BIG_G14 = (
    VisionConfig(1664, 48, 16, patch_size=14, resolution=224, embed_dim=1280, activation="gelu", mlp_dim=8192),
    TextConfig(1280, 32, 20, vocab_size=49408, context_length=77, embed_dim=1280, activation="gelu"),
)


def param_shapes(vision: VisionConfig, text: TextConfig | None) -> dict[str, tuple[int, ...]]:
    return {path: leaf.shape for path, leaf in table.flatten(ClipBackbone(vision, text).param_shapes()).items()}


def openai_shapes(vision: VisionConfig, text: TextConfig | None) -> table.Shapes:
    """Shapes of the tensors of a complete model, by OpenAI's names."""
    return table.names_and_shapes(clip_formats.OPENAI, param_shapes(vision, text))


@pytest.mark.parametrize(
    ("towers", "millions"), [(H14, 986.11), (G14, 1366.68), (BIG_G14, 2539.57)], ids=["H/14", "g/14", "bigG/14"]
)
def test_the_published_sizes_have_the_published_number_of_parameters(towers, millions):
    # Numbers of parameters: open_clip, docs/model_profile.csv.
    shapes = param_shapes(*towers)
    assert sum(map(math.prod, shapes.values())) / 1e6 == pytest.approx(millions, abs=0.01)
    assert shapes["vision/blocks/attention/query/kernel"][-2:] == (16, towers[0].width // 16)


@pytest.mark.parametrize(
    ("name", "towers", "millions"),
    [
        ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", H14, 632.08),
        ("facebook/metaclip-h14-fullcc2.5b", (dataclasses.replace(H14[0], activation="quick_gelu"),), 632.08),
        ("laion/CLIP-ViT-g-14-laion2B-s12B-b42K", G14, 1012.65),
        ("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", BIG_G14, 1844.91),
    ],
)
def test_the_image_towers_of_the_larger_models_are_known_without_files(name, towers, millions):
    assert PUBLISHED[name].vision == towers[0]
    shapes = table.flatten(PUBLISHED[name].param_shapes()["vision"])
    assert sum(math.prod(leaf.shape) for leaf in shapes.values()) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("towers", [H14, G14, BIG_G14], ids=["H/14", "g/14", "bigG/14"])
def test_published_sizes_are_read_from_the_tensors_if_the_activation_is_set(towers, capsys):
    shapes = openai_shapes(*towers)
    with pytest.raises(
        UserError, match=r"epoch_9\.pt: the file does not contain whether .* QuickGELU, and .*activation"
    ):
        stated_architecture(ClipSettings(), shapes, "epoch_9.pt")
    architecture = stated_architecture(ClipSettings("gelu"), shapes, "epoch_9.pt")
    assert openai_sizes(shapes, True, "epoch_9.pt", architecture) == towers
    assert not capsys.readouterr().err


@pytest.mark.parametrize("towers", [H14, G14, BIG_G14], ids=["H/14", "g/14", "bigG/14"])
def test_published_sizes_are_written_to_and_read_from_a_hugging_face_config(towers):
    config = clip_configs.huggingface_config(*towers)
    vision, text = clip_configs.huggingface_sizes(config, True, "config.json")
    assert (vision, dataclasses.replace(text, end_token=None)) == towers


def test_a_hugging_face_config_without_hidden_widths_has_the_default_ones(huggingface):
    change_config(huggingface, "vision_config", intermediate_size=500)
    with pytest.raises(UserError, match=r"fc1\.weight has shape \[512, 128\], expected \[500, 128\]"):
        clip_weights.load(str(huggingface))
    vision, text = clip_configs.huggingface_sizes({"model_type": "clip"}, True, "config.json")
    assert (vision.mlp_dim, text.mlp_dim) == (3072, 2048)


def with_mlp(tensors: dict, prefix: str, mlp_dim: int) -> dict:
    """The tensors; MLPs with names that start with `prefix` get another hidden width."""
    changed = dict(tensors)
    for name, value in tensors.items():
        if name.startswith(prefix) and ".mlp.c_" in name and not name.endswith("c_proj.bias"):
            axis = int("c_proj" in name)
            changed[name] = np.ascontiguousarray(
                np.resize(value, [mlp_dim if i == axis else n for i, n in enumerate(value.shape)])
            )
    return changed


def test_the_hidden_width_and_the_heads_of_an_open_clip_model_are_read(tmp_path):
    tensors = with_mlp(with_mlp(OPENAI, "visual.", 630), "transformer.", 250)
    config = copy.deepcopy(OPEN_CLIP)
    config["model_cfg"]["vision_cfg"]["mlp_ratio"] = 4.9231  # of 128: 630
    config["model_cfg"]["text_cfg"]["mlp_ratio"] = 3.91
    write(tmp_path / "open_clip_model.safetensors", tensors, open_clip_config=config)
    loaded = clip_weights.load(str(tmp_path))
    assert (loaded.vision.mlp_dim, loaded.text.mlp_dim) == (630, 250)
    assert (loaded.vision.num_heads, loaded.text.num_heads) == (4, 4)


def test_an_open_clip_config_without_heads_and_activation_has_the_defaults_of_open_clip(tmp_path):
    config = copy.deepcopy(OPEN_CLIP)
    del config["model_cfg"]["quick_gelu"], config["model_cfg"]["vision_cfg"]["head_width"]
    del config["model_cfg"]["text_cfg"]["heads"]
    write(tmp_path / "open_clip_model.safetensors", OPENAI, open_clip_config=config)
    loaded = clip_weights.load(str(tmp_path))
    assert (loaded.vision.num_heads, loaded.text.num_heads, loaded.text.activation) == (2, 8, "gelu")


@pytest.mark.parametrize(
    ("tower", "changes", "message"),
    [
        ("vision_cfg", {"mlp_ratio": 5}, r"vision_cfg\.mlp_ratio \* width is 640, the tensors have 512"),
        ("vision_cfg", {"layers": 4}, r"vision_cfg\.layers is 4, the tensors have 3"),
        ("text_cfg", {"width": 128, "layers": 3}, r"text_cfg\.width is 128, the tensors have 64; text_cfg\.layers"),
    ],
)
def test_the_open_clip_config_of_another_model_is_an_error(tmp_path, tower, changes, message):
    config = copy.deepcopy(OPEN_CLIP)
    config["model_cfg"][tower].update(changes)
    write(tmp_path / "open_clip_model.safetensors", OPENAI, open_clip_config=config)
    with pytest.raises(UserError, match=rf"open_clip_config\.json belongs to a different model: {message}"):
        clip_weights.load(str(tmp_path))


def test_an_open_clip_config_without_a_model_is_an_error(tmp_path):
    write(tmp_path / "open_clip_model.safetensors", OPENAI, open_clip_config={"preprocess_cfg": {}})
    with pytest.raises(UserError, match="model_cfg is missing"):
        clip_weights.load(str(tmp_path))


def test_the_name_of_an_open_clip_file_contains_quick_gelu(tmp_path):
    file = write(tmp_path / "vit_b_32-quickgelu-laion400m_e32.safetensors", OPENAI)
    assert clip_weights.load(file).text.activation == "quick_gelu"


def test_heads_of_an_unpublished_width_are_set_or_assumed_with_a_warning(tmp_path, capsys):
    file = write(tmp_path / "epoch_3.safetensors", OPENAI)
    loaded = clip_weights.load(file, settings=ClipSettings("gelu"))
    assert (loaded.vision.num_heads, loaded.text.num_heads) == (2, 1)
    first, second = capsys.readouterr().err.splitlines()
    assert "assuming 2 heads of width 64 in the image tower (width 128); set --num-heads" in first
    assert "assuming 1 heads of width 64 in the text tower (width 64)" in second
    loaded = clip_weights.load(file, settings=ClipSettings("gelu", (4, 2)))
    assert (loaded.vision.num_heads, loaded.text.num_heads) == (4, 2)
    assert not capsys.readouterr().err


def test_heads_of_a_width_that_64_does_not_divide_must_be_set():
    vision = dataclasses.replace(small_models.VISION, width=208)
    shapes = openai_shapes(vision, small_models.TEXT)
    message = r"does not contain the number of heads of its image tower \(width 208\), .*set --num-heads IMAGE,TEXT "
    with pytest.raises(UserError, match=message):
        stated_architecture(ClipSettings("gelu"), shapes, "epoch_3.pt")
    assert stated_architecture(ClipSettings("gelu", (2, 2)), shapes, "epoch_3.pt").vision_heads == 2
    with pytest.raises(UserError, match="num_heads 2 is set, but the file has image and text towers"):
        stated_architecture(ClipSettings("gelu", (2,)), shapes, "epoch_3.pt")


def test_settings_that_contradict_the_files_are_an_error(huggingface, tmp_path):
    assert clip_weights.load(str(huggingface), settings=ClipSettings("quick_gelu", (2, 1))).vision.num_heads == 2
    openai = write(tmp_path / "ViT.safetensors", OPENAI | {"input_resolution": np.asarray(48)})
    for weights in (str(huggingface), openai):
        with pytest.raises(UserError, match="activation gelu is set, but the model has quick_gelu and quick_gelu"):
            clip_weights.load(weights, settings=ClipSettings("gelu"))
        with pytest.raises(UserError, match="num_heads 4,1 is set, but the model has 2,1; remove this setting"):
            clip_weights.load(weights, settings=ClipSettings("", (4, 1)))
