"""Where a CLIP's files are: beside each other in a directory, or in a repository of the Hugging Face hub."""

import json
from pathlib import Path

import numpy as np

from dist_jax import hub
from dist_jax.errors import UserError
from dist_jax.models.backbones.clip import CLIP_MEAN, CLIP_STD
from dist_jax.text import tokenizer
from dist_jax.weights.clip_formats import HUGGINGFACE_MODELS

# A directory's weights are the first of these that it has; those that need torch come last.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "flax_model.msgpack",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)
CONFIG, OPEN_CLIP_CONFIG, PREPROCESSOR_CONFIG = "config.json", "open_clip_config.json", "preprocessor_config.json"


def find(weights: str) -> Path:
    """The file that holds the weights; from the hub, only what is needed is downloaded.

    Args:
        weights: a file, a directory or a hub id (owner/name).

    Raises:
        UserError: if there is none.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        found = [path / name for name in _in_order(path) if (path / name).is_file()]
        if not found:
            raise UserError(f"{weights}: none of {', '.join(WEIGHTS)} is there")
        return found[0]
    if not hub.is_id(weights):
        raise UserError(f"{weights}: no such file or directory, nor a hub id (owner/name)")
    beside = [CONFIG, OPEN_CLIP_CONFIG, PREPROCESSOR_CONFIG, *tokenizer.PATTERNS]
    for name in _in_order(hub.download(weights, beside)):
        shards = [name.replace(".safetensors.index.json", "-*").replace(".bin.index.json", "-*")]
        file = hub.download(weights, [*beside, name, *shards]) / name
        if file.is_file():
            return file
    raise UserError(f"{weights}: the hub repository has none of {', '.join(WEIGHTS)}")


def _in_order(directory: Path) -> list[str]:
    """WEIGHTS as they are looked for in a directory, by its configs.

    Models of timm that were made of an open_clip one hold both; there model.safetensors is timm's, in its own names.
    """
    config = directory / CONFIG
    huggingface = config.is_file() and read_json(config).get("model_type") in HUGGINGFACE_MODELS
    of_open_clip = (directory / OPEN_CLIP_CONFIG).is_file() and not huggingface
    return sorted(WEIGHTS, key=lambda name: of_open_clip and not name.startswith("open_clip"))


def check_normalization(directory: Path) -> None:
    """Refuses a model that wants pixels normalised other than by CLIP's statistics, which the networks get."""
    for name, part, mean, std in (
        (PREPROCESSOR_CONFIG, None, "image_mean", "image_std"),
        (OPEN_CLIP_CONFIG, "preprocess_cfg", "mean", "std"),
    ):
        file = directory / name
        config = read_json(file) if file.is_file() else {}
        config = (config.get(part) or {}) if part else config
        for key, ours in ((mean, CLIP_MEAN), (std, CLIP_STD)):
            if config.get(key) is not None and not np.allclose(config[key], ours, atol=1e-3):
                raise UserError(f"{file}: {key} is {config[key]}; models with CLIP's, {list(ours)}, can be loaded")


def read_json(file: Path) -> dict:
    """The object in a JSON file; UserError if there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: no readable JSON ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: holds a {type(found).__name__}, not a JSON object")
    return found
