"""A small SigLIP with random parameters, as a Hugging Face directory with tokenizer."""

import json
from pathlib import Path

import numpy as np

from dist_jax.models.backbones.siglip import SiglipBackbone
from dist_jax.models.backbones.text_tower import TextConfig
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.weights import table
from dist_jax.weights.siglip import SiglipModel, save_huggingface
from helpers.small_models import random_params

VISION = VisionConfig(64, 3, 2, patch_size=4, resolution=8, embed_dim=64, activation="gelu_pytorch_tanh", mlp_dim=144)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXT = TextConfig(
    48, 2, 2, vocab_size=33, context_length=12, embed_dim=64, activation="gelu_pytorch_tanh", mlp_dim=80
)  # the tokenizer's special tokens, letters, space and hyphen
PAD, END = 0, 1


def siglip_model(seed: int = 0) -> SiglipModel:
    """A SigLIP with NumPy parameters. exp(logit_scale) is 10."""
    shapes = table.flatten(SiglipBackbone(VISION, TEXT).param_shapes())
    params = {
        tower: random_params(
            {path.removeprefix(f"{tower}/"): leaf.shape for path, leaf in shapes.items() if path.startswith(tower)},
            seed,
        )
        for tower in ("vision", "text")
    }
    scalars = {"logit_scale": np.log(np.float32(10)), "logit_bias": np.float32(-4)}
    return SiglipModel(VISION, TEXT, params | scalars, None, "small SigLIP", f"{seed:064}")


def write_siglip(directory: Path, seed: int = 0) -> str:
    """Writes `siglip_model(seed)` as google/siglip2-* are published, with tokenizer."""
    save_huggingface(siglip_model(seed), directory)
    statistics = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (directory / "preprocessor_config.json").write_text(json.dumps(statistics))
    write_tokenizer(directory)
    return str(directory)


def write_tokenizer(directory: Path, **options: object) -> None:
    """Writes a tokenizer of letters. Its tokenizer.json keeps upper-case letters, as Gemma's: they are unknown."""
    from transformers import Siglip2Tokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocab = {token: number for number, token in enumerate([*special, *LETTERS, "▁", "-"])}
    options = {"add_eos_token": True, "add_bos_token": False, "padding_side": "right"} | options
    Siglip2Tokenizer(vocab=vocab, merges=[], **options).save_pretrained(directory)
    file = directory / "tokenizer.json"
    content = json.loads(file.read_text())
    content["normalizer"] = content["normalizer"]["normalizers"][1]
    file.write_text(json.dumps(content))
