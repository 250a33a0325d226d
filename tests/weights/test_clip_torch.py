"""Tests of CLIP against PyTorch: Hugging Face's model, PyTorch's interpolation, and files written by PyTorch."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.clip_files import OPENAI, assert_same_weights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from helpers import torch_models
from helpers.torch_models import pixels, to_torch

from dist_jax.models.backbones.clip_text import ClipText
from dist_jax.models.backbones.clip_vision import ClipVision
from dist_jax.weights import clip as clip_weights
from dist_jax.weights.openai_sizes import ClipSettings
from dist_jax.weights.positions import resize_positions

END_TOKEN = 40  # of the small Hugging Face model; higher token ids exist


# Width, hidden width of the MLPs and heads of the image tower and of the text tower.
SIZES = {
    "small": ((32, 128, 4), (48, 192, 3)),
    "as bigG": ((208, 1024, 2), (96, 384, 2)),  # heads of 104, MLP ratio 4.92
    "as H": ((160, 640, 2), (80, 352, 1)),  # heads of 80
}


@pytest.fixture(scope="module", params=[("small", "quick_gelu"), ("as bigG", "gelu"), ("as H", "quick_gelu")], ids=str)
def reference(request):
    """A Hugging Face CLIP with large random weights and heads of a width other than 64."""
    sizes, activation = request.param
    tower = {"hidden_act": activation, "projection_dim": 24, "num_hidden_layers": 2}
    names = ("hidden_size", "intermediate_size", "num_attention_heads")
    vision, text = (dict(zip(names, values, strict=True)) for values in SIZES[sizes])
    config = transformers.CLIPConfig(
        vision_config={**vision, **tower, "image_size": 20, "patch_size": 5},
        text_config={**text, **tower, "vocab_size": 64, "max_position_embeddings": 12, "eos_token_id": END_TOKEN},
        projection_dim=24,
    )
    return torch_models.randomize(transformers.CLIPModel(config))


@pytest.fixture(scope="module")
def saved(reference, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("reference")
    reference.save_pretrained(directory)
    return directory


def tokens() -> np.ndarray:
    """Texts of different lengths, with higher token ids before and equal token ids after the end token."""
    rows = np.random.default_rng(1).integers(0, END_TOKEN, (4, 12))
    rows[:, 1] = END_TOKEN + 20
    for row, end in zip(rows, (2, 5, 8, 11), strict=True):
        row[end:] = END_TOKEN
    return rows


assert_close = partial(torch_models.assert_close, tolerance=3e-6)


def test_the_image_tower_equals_hugging_face(reference, saved):
    loaded = clip_weights.load(str(saved))
    tower = ClipVision(loaded.vision)
    variables = {"params": loaded.params["vision"]}
    with torch.no_grad():
        theirs = reference.vision_model(to_torch(pixels(20)), output_hidden_states=True)
        embeddings = reference.visual_projection(theirs.pooler_output)
    features = tower.apply(variables, jnp.asarray(pixels(20))[:, None], (0, 1), method="features")
    for ours, hidden in zip(np.asarray(features)[:, 0], theirs.hidden_states[1:], strict=True):
        assert_close(ours, hidden)
    assert_close(np.asarray(tower.apply(variables, jnp.asarray(pixels(20)))), embeddings)


def test_the_text_tower_equals_hugging_face(reference, saved):
    loaded = clip_weights.load(str(saved))
    assert loaded.text.end_token == END_TOKEN
    ours = ClipText(loaded.text).apply({"params": loaded.params["text"]}, jnp.asarray(tokens(), jnp.int32))
    with torch.no_grad():
        theirs = reference.text_projection(reference.text_model(torch.from_numpy(tokens())).pooler_output)
    assert_close(np.asarray(ours), theirs)


def test_interpolated_positions_equal_hugging_face(reference, saved):
    loaded = clip_weights.load(str(saved), resolution=35)
    ours = ClipVision(loaded.vision).apply({"params": loaded.params["vision"]}, jnp.asarray(pixels(35)))
    with torch.no_grad():
        theirs = reference.vision_model(to_torch(pixels(35)), interpolate_pos_encoding=True)
        assert_close(np.asarray(ours), reference.visual_projection(theirs.pooler_output))


@pytest.mark.parametrize(("old", "new"), [(14, 24), (16, 7), (1, 3), (3, 2), (7, 8)])
def test_bicubic_interpolation_equals_pytorch(old, new):
    positions = np.random.default_rng(old).standard_normal((1 + old * old, 3)).astype(np.float32)
    patches = torch.from_numpy(positions[1:].reshape(1, old, old, 3).transpose(0, 3, 1, 2).copy())
    # float64, because PyTorch rounds the coordinates of float32 images to about 1e-6 pixels.
    theirs = torch.nn.functional.interpolate(patches.double(), (new, new), mode="bicubic", align_corners=False)
    ours = resize_positions(positions, new)
    np.testing.assert_allclose(ours[1:], theirs.numpy()[0].transpose(1, 2, 0).reshape(-1, 3), rtol=0, atol=3e-7)


def test_hugging_face_loads_a_saved_model(reference, saved, tmp_path):
    clip_weights.save_huggingface(clip_weights.load(str(saved)), tmp_path)
    model, report = transformers.CLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    theirs = reference.state_dict()
    assert model.state_dict().keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())
    model.eval()
    with torch.no_grad():
        ours = model.text_model(torch.from_numpy(tokens())).pooler_output
        assert torch.equal(ours, reference.text_model(torch.from_numpy(tokens())).pooler_output)


def test_hugging_face_loads_a_saved_image_tower(tmp_path):
    vision = {name: value for name, value in OPENAI.items() if name.startswith("visual.")}
    clip_weights.save_huggingface(clip_weights.from_openai(vision, "vision"), tmp_path)
    model, report = transformers.CLIPVisionModelWithProjection.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] | report["unexpected_keys"] | report["mismatched_keys"]
    np.testing.assert_array_equal(model.visual_projection.weight.detach().numpy(), OPENAI["visual.proj"].T)


def with_openai_names(tensors: dict) -> dict:
    """The state dict of a Hugging Face model in the layout of OpenAI and open_clip."""
    towers = {"vision_model.": "visual.", "text_model.": ""}
    parts = {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "pre_layrnorm.": "ln_pre.",
        "post_layernorm.": "ln_post.",
        "final_layer_norm.": "ln_final.",
        "encoder.layers.": "transformer.resblocks.",
        ".layer_norm": ".ln_",
        ".mlp.fc1.": ".mlp.c_fc.",
        ".mlp.fc2.": ".mlp.c_proj.",
        ".self_attn.out_proj.": ".attn.out_proj.",
        ".self_attn.q_proj.": ".attn.in_proj_",
    }
    renamed = {
        "logit_scale": tensors["logit_scale"],
        "text_projection": tensors["text_projection.weight"].T.contiguous(),
        "visual.proj": tensors["visual_projection.weight"].T.contiguous(),
    }
    for name, value in tensors.items():
        if not name.startswith(tuple(towers)) or ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            value = torch.cat([tensors[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"])
        for theirs, ours in (towers | parts).items():
            name = name.replace(theirs, ours)
        renamed[name] = value
    return renamed


def test_the_same_weights_in_an_open_clip_checkpoint_are_equal(reference, saved, tmp_path):
    expected = clip_weights.load(str(saved))
    torch.save({"state_dict": with_openai_names(reference.state_dict())}, tmp_path / "epoch_3.pt")
    heads = (expected.vision.num_heads, expected.text.num_heads)
    settings = ClipSettings(expected.vision.activation, heads)
    loaded = clip_weights.load(str(tmp_path / "epoch_3.pt"), settings=settings)
    assert_same_weights(loaded, expected)
    assert loaded.vision == expected.vision
    assert loaded.text == dataclasses.replace(expected.text, end_token=None)


def test_pytorch_model_bin_loads(reference, saved, tmp_path):
    tensors = dict(reference.state_dict())
    tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]  # saved by older versions
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    assert clip_weights.load(str(tmp_path)).fingerprint == clip_weights.load(str(saved)).fingerprint


def test_sharded_pytorch_files_load(reference, saved, tmp_path):
    tensors = dict(reference.state_dict())
    names = sorted(tensors)
    weight_map = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        torch.save({name: tensors[name].clone() for name in names if weight_map[name] == file}, tmp_path / file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    assert clip_weights.load(str(tmp_path)).fingerprint == clip_weights.load(str(saved)).fingerprint
