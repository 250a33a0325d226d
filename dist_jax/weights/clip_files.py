"""Finds the files of a CLIP model in a directory or in a Hugging Face hub repository."""

import json
from pathlib import Path

import numpy as np

from dist_jax import hub
from dist_jax.errors import UserError
from dist_jax.models.backbones.clip import CLIP_MEAN, CLIP_STD
from dist_jax.text import tokenizer
from dist_jax.weights.clip_configs import HUGGINGFACE_MODELS

# Names of weight files, in order of preference; files that need PyTorch are last.
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
    """Finds the weight file; downloads only the necessary files from the hub.

    Args:
        weights: a file, a directory or a hub id (owner/name).

    Raises:
        UserError: no weight file.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        files = [path / name for name in _by_preference(path) if (path / name).is_file()]
        if not files:
            raise UserError(f"{weights}: this directory has none of {', '.join(WEIGHTS)}")
        return files[0]
    if not hub.is_id(weights):
        raise UserError(f"{weights}: no such file or directory, and not a hub id (owner/name)")
    small_files = [CONFIG, OPEN_CLIP_CONFIG, PREPROCESSOR_CONFIG, *tokenizer.PATTERNS]
    for name in _by_preference(hub.download(weights, small_files)):
        shards = [name.replace(".safetensors.index.json", "-*").replace(".bin.index.json", "-*")]
        file = hub.download(weights, [*small_files, name, *shards]) / name
        if file.is_file():
            return file
    raise UserError(
        f"{weights}: the hub repository is neither a model directory of dist_jax nor a CLIP: it has none of "
        f"{', '.join(WEIGHTS)}"
    )


def _by_preference(directory: Path) -> list[str]:
    """WEIGHTS in order of preference for a directory.

    Repositories of timm may hold an open_clip model and the same model with timm's names in model.safetensors.
    """
    config = directory / CONFIG
    huggingface = config.is_file() and read_json(config).get("model_type") in HUGGINGFACE_MODELS
    open_clip_first = (directory / OPEN_CLIP_CONFIG).is_file() and not huggingface
    return sorted(WEIGHTS, key=lambda name: open_clip_first and not name.startswith("open_clip"))


def check_normalization(directory: Path) -> None:
    """Raises UserError if the model was trained with another pixel normalisation than CLIP's."""
    for name, part, mean, std in (
        (PREPROCESSOR_CONFIG, None, "image_mean", "image_std"),
        (OPEN_CLIP_CONFIG, "preprocess_cfg", "mean", "std"),
    ):
        file = directory / name
        config = read_json(file) if file.is_file() else {}
        config = (config.get(part) or {}) if part else config
        for key, expected in ((mean, CLIP_MEAN), (std, CLIP_STD)):
            if config.get(key) is not None and not np.allclose(config[key], expected, atol=1e-3):
                raise UserError(f"{file}: {key} is {config[key]}, must be CLIP's {list(expected)}")


def read_json(file: Path) -> dict:
    """The object in a JSON file. Raises UserError if it cannot be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: contains a {type(content).__name__}, must be a JSON object")
    return content
