"""A small CLIP with OpenAI's names, and functions that write and change its files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from golden.tiny import state_dict
from safetensors.numpy import load_file, save_file

from dist_jax.weights import table
from dist_jax.weights.clip import ClipModel

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
    """Writes a safetensors file, and NAME.json in its directory for every NAME=content."""
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path)
    for name, config in configs.items():
        (path.parent / f"{name}.json").write_text(json.dumps(config))
    return str(path)


def change_tensors(directory: Path, change: Callable[[dict], None]) -> None:
    """Changes the tensors in model.safetensors."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def change_config(directory: Path, tower: str = "", **fields: object) -> None:
    """Changes fields of config.json, or of one tower in it."""
    config = json.loads((directory / "config.json").read_text())
    (config[tower] if tower else config).update(fields)
    (directory / "config.json").write_text(json.dumps(config))


def assert_same_weights(clip_model: ClipModel, expected: ClipModel) -> None:
    assert clip_model.fingerprint == expected.fingerprint
    for path, leaf in table.flatten(clip_model.params).items():
        np.testing.assert_array_equal(leaf, table.flatten(expected.params)[path], err_msg=path)
