"""Writes the files of a Hugging Face model."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dist_jax.weights.backbone_files import CONFIG
from dist_jax.weights.checkpoint_files import write_safetensors


def write(directory: Path, config: Mapping, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes config.json and model.safetensors (float32) to `directory`, which is created if necessary."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    float32 = {name: np.array(tensor, np.float32, order="C") for name, tensor in tensors.items()}
    write_safetensors(directory / "model.safetensors", float32, metadata={"format": "pt"})
