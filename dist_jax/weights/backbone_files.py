"""Finds and opens the files of a backbone in a directory or in a Hugging Face hub repository."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from dist_jax import hub
from dist_jax.errors import UserError
from dist_jax.text import tokenizer
from dist_jax.weights.checkpoint_files import Tensor, open_sharded, open_tensors

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


class UnsupportedBackboneError(UserError):
    """The files are those of a model that no kind of backbone can read."""


@dataclasses.dataclass(frozen=True)
class OpenedWeights:
    """An opened weight file."""

    tensors: Mapping[str, Tensor]  # by the names of the file
    source: str  # the file, in messages
    name: str  # as the user gives it
    tokenizer: str | None = None  # directory of its tokenizer files

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def directory(self) -> Path:
        """The directory of the file."""
        return Path(self.source).parent

    @cached_property
    def config(self) -> dict:
        """The content of config.json next to the file; {} if there is none."""
        file = self.directory / CONFIG
        return read_json(file) if file.is_file() else {}


def open_weights(weights: str) -> OpenedWeights:
    """Opens a weight file; reads no parameters. Arguments and errors as in `find`, and a damaged file is an error."""
    file = find(weights)
    tensors = open_sharded(file) if file.name.endswith(".index.json") else open_tensors(file)
    return OpenedWeights(tensors, str(file), weights, tokenizer.find_next_to(file))


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
    own_name = f"{weights.partition('/')[2]}.pt"  # facebook/PE-Core-*
    for name in [*_by_preference(hub.download(weights, small_files)), own_name]:
        shards = [name.replace(".safetensors.index.json", "-*").replace(".bin.index.json", "-*")]
        file = hub.download(weights, [*small_files, name, *shards]) / name
        if file.is_file():
            return file
    raise UserError(
        f"{weights}: the hub repository is neither a model directory of dist_jax nor a backbone: it has none of "
        f"{', '.join((*WEIGHTS, own_name))}"
    )


def _by_preference(directory: Path) -> list[str]:
    """WEIGHTS in order of preference for a directory.

    Repositories of timm may hold an open_clip model and the same model with timm's names in model.safetensors. Their
    config.json has no model_type.
    """
    config = directory / CONFIG
    huggingface = config.is_file() and "model_type" in read_json(config)
    open_clip_first = (directory / OPEN_CLIP_CONFIG).is_file() and not huggingface
    return sorted(WEIGHTS, key=lambda name: open_clip_first and not name.startswith("open_clip"))


def check_normalization(directory: Path, means: Sequence[float], stds: Sequence[float]) -> None:
    """Raises UserError if the files name another pixel normalisation than channel means and standard deviations."""
    for name, part, mean, std in (
        (PREPROCESSOR_CONFIG, None, "image_mean", "image_std"),
        (OPEN_CLIP_CONFIG, "preprocess_cfg", "mean", "std"),
    ):
        file = directory / name
        config = read_json(file) if file.is_file() else {}
        config = (config.get(part) or {}) if part else config
        for key, expected in ((mean, means), (std, stds)):
            if config.get(key) is not None and not np.allclose(config[key], expected, atol=1e-3):
                raise UserError(f"{file}: {key} is {config[key]}, must be {list(expected)}")


def read_json(file: Path) -> dict:
    """The object in a JSON file. Raises UserError if it cannot be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: contains a {type(content).__name__}, must be a JSON object")
    return content
