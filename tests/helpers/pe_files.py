"""A small Perception Encoder Core with random parameters, as files of open_clip and of facebook/PE-Core-*."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from dist_jax.models.backbones.pe import PeBackbone
from dist_jax.models.backbones.pe_vision import PeVisionConfig
from dist_jax.models.backbones.text_tower import TextConfig
from dist_jax.weights import pe_formats, table
from dist_jax.weights.pe import PeModel
from helpers import small_models

# Widths for which the number of heads is known, and numbers of heads that two devices can share. The vocabulary is that
# of `small_models.write_tokenizer`.
VISION = PeVisionConfig(384, 3, 6, patch_size=4, resolution=8, embed_dim=32, mlp_dim=400)
WITHOUT_CLASS_TOKEN = PeVisionConfig(384, 3, 6, patch_size=4, resolution=8, embed_dim=32, class_token=False)
TEXT = TextConfig(128, 2, 2, vocab_size=54, context_length=8, embed_dim=32, activation="gelu")


def pe_model(vision: PeVisionConfig = VISION) -> PeModel:
    """A Perception Encoder with NumPy parameters. exp(logit_scale) is 10; the projection has no bias, as published."""
    shapes = {path: leaf.shape for path, leaf in table.flatten(PeBackbone(vision, TEXT).param_shapes()).items()}
    params = {
        tower: small_models.random_params(
            {path.removeprefix(f"{tower}/"): shape for path, shape in shapes.items() if path.startswith(tower)}, seed=0
        )
        for tower in ("vision", "text")
    }
    params["vision"]["proj"]["bias"][:] = 0
    return PeModel(vision, TEXT, params | {"logit_scale": np.log(np.float32(10))}, None, "small PE", f"{0:064}")


def tensors(rows: table.Table, vision: PeVisionConfig = VISION) -> dict[str, np.ndarray]:
    """The tensors of `pe_model(vision)` with the names of a format."""
    leaves = {path: np.asarray(leaf) for path, leaf in table.flatten(pe_model(vision).params).items()}
    rows = tuple(row for row in rows if row.paths[0] in leaves)
    return {name: np.array(tensor, order="C") for name, tensor in table.to_theirs(rows, leaves)}


def meta_tensors(vision: PeVisionConfig = VISION) -> dict[str, np.ndarray]:
    """The tensors as in the files of facebook/PE-Core-*."""
    return {name: tensor for name, tensor in tensors(pe_formats.META, vision).items() if name != pe_formats.PROJ_BIAS}


def write_pe(directory: Path, vision: PeVisionConfig = VISION) -> str:
    """Writes `pe_model(vision)` as timm/PE-Core-* are published, with a tokenizer of letters."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors(pe_formats.OPEN_CLIP, vision), directory / "open_clip_model.safetensors")
    (directory / "open_clip_config.json").write_text(json.dumps(open_clip_config("vit_pe_core_base_patch16_224")))
    return small_models.write_tokenizer(directory)


def open_clip_config(timm_name: str) -> dict:
    """open_clip_config.json of a model with an image tower of timm."""
    vision = {"image_size": 8, "timm_model_name": timm_name, "timm_pool": "map", "timm_proj": None}
    text = {"context_length": 8, "vocab_size": 54, "width": 128, "heads": 2, "layers": 2}
    return {
        "model_cfg": {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, "custom_text": True},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }
