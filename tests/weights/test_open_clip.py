"""Tests of CLIP against open_clip: models with wide heads, and an MLP ratio other than 4."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from helpers import torch_models
from helpers.torch_models import pixels, to_torch

open_clip = torch_models.import_open_clip()

from dist_jax.models.backbones.clip_text import ClipText
from dist_jax.models.backbones.clip_vision import ClipVision
from dist_jax.weights import clip as clip_weights
from dist_jax.weights.openai_sizes import ClipSettings

TEXT = {"context_length": 12, "vocab_size": 64, "width": 96, "heads": 2, "layers": 2}
MODELS = {
    "as bigG": {  # heads of 104, MLP ratio 4.92
        "embed_dim": 24,
        "vision_cfg": {
            **{"image_size": 20, "layers": 2, "width": 208, "patch_size": 5, "head_width": 104, "mlp_ratio": 4.9231}
        },
        "text_cfg": {**TEXT, "mlp_ratio": 3.3},
    },
    "as H with QuickGELU": {  # heads of 80
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 20, "layers": 2, "width": 160, "patch_size": 5, "head_width": 80},
        "text_cfg": TEXT,
    },
}


@pytest.fixture(scope="module", params=MODELS)
def model_cfg(request) -> dict:
    return MODELS[request.param]


@pytest.fixture(scope="module")
def reference(model_cfg):
    """An open_clip model with random weights."""
    return torch_models.randomize(open_clip.CLIP(**model_cfg))


def save(reference, model_cfg: dict, folder: Path) -> str:
    """Writes the files of an open_clip repository."""
    torch.save(reference.state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))
    return str(folder)


def assert_equals(loaded: clip_weights.ClipModel, reference) -> None:
    """Compares the embeddings of random images and texts."""
    tokens = np.random.default_rng(1).integers(0, 60, (4, 12))
    tokens[np.arange(4), [2, 5, 8, 11]] = 63  # the end token
    with torch.no_grad():
        image_embeddings = reference.encode_image(to_torch(pixels(20)))
        text_embeddings = reference.encode_text(torch.from_numpy(tokens))
    ours = ClipVision(loaded.vision).apply({"params": loaded.params["vision"]}, jnp.asarray(pixels(20)))
    torch_models.assert_close(ours, image_embeddings, tolerance=3e-6)
    ours = ClipText(loaded.text).apply({"params": loaded.params["text"]}, jnp.asarray(tokens, jnp.int32))
    torch_models.assert_close(ours, text_embeddings, tolerance=3e-6)


def test_a_model_with_its_config_equals_open_clip(reference, model_cfg, tmp_path):
    assert_equals(clip_weights.load(save(reference, model_cfg, tmp_path)), reference)


def test_a_training_checkpoint_with_the_settings_equals_open_clip(reference, model_cfg, tmp_path):
    tensors = {f"module.{name}": value for name, value in reference.state_dict().items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": tensors}, tmp_path / "epoch_3.pt")
    activation = "quick_gelu" if model_cfg.get("quick_gelu") else "gelu"
    assert_equals(clip_weights.load(str(tmp_path / "epoch_3.pt"), settings=ClipSettings(activation, (2, 2))), reference)


def test_a_saved_model_equals_open_clip(reference, model_cfg, tmp_path):
    loaded = clip_weights.load(save(reference, model_cfg, tmp_path))
    clip_weights.save_huggingface(loaded, tmp_path / "huggingface")
    assert_equals(clip_weights.load(str(tmp_path / "huggingface")), reference)
