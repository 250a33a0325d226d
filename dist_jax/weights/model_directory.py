"""A model directory: everything that is needed to use a trained model, in one folder.

config.json          sizes of the DiST network and of CLIP's towers, the evaluation recipe, CLIP's name and fingerprint
model.safetensors    "dist/...", "clip/vision/...", "clip/text/...", "clip/logit_scale", "text_features"
labels.txt           class names, one a line, in the order of text_features (absent if the model has none)
tokenizer files      as the CLIP directory had them (absent if there were none: then only token ids can be encoded)
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy

from dist_jax import class_names, config
from dist_jax.errors import UserError
from dist_jax.models.backbones.clip_text import TextConfig
from dist_jax.models.backbones.clip_vision import VisionConfig
from dist_jax.models.dist_network import DistConfig
from dist_jax.text import tokenizer
from dist_jax.weights import checkpoint_files, dist_official, table
from dist_jax.weights import clip as clip_weights
from dist_jax.weights.clip import ClipModel
from dist_jax.weights.table import Place, keep

CONFIG, TENSORS, LABELS = "config.json", "model.safetensors", "labels.txt"
FORMAT = "dist_jax model 1"


@dataclasses.dataclass(frozen=True)
class EvalProtocol:
    """How clips are taken from a video to classify it: settings of `config.py`, which says what they mean."""

    num_views: int
    num_crops: int
    zero_shot_weight: float
    sampling: str
    stride: int

    @classmethod
    def of(cls, settings: Mapping) -> "EvalProtocol":
        """That of a run's configuration."""
        return cls(
            **{name: settings["eval"][name] for name in ("num_views", "num_crops", "zero_shot_weight")},
            **{name: settings["data"][name] for name in ("sampling", "stride")},
        )


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model: a DiST network, its CLIP, and its classes."""

    dist: DistConfig
    dist_params: dict
    clip: ClipModel
    classes: tuple[str, ...] = ()  # K names; empty: the model has no classes of its own
    text_features: np.ndarray | None = None  # of the class names, float32 [K, E], unit length
    evaluation: EvalProtocol = dataclasses.field(default_factory=lambda: EvalProtocol.of(config.defaults()))


def write(directory: str | Path, model: Model) -> None:
    """Writes a model directory, whole or not at all.

    Raises:
        UserError: if the directory exists and is not empty, or the class names are none that a file can hold.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} exists and is not empty; give another --output")
    labels = class_names.to_text(model.classes)
    unfinished = directory.with_name(directory.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    (unfinished / CONFIG).write_text(json.dumps(_config(model), indent=1) + "\n")
    # safetensors stores a transposed view as if it were contiguous.
    tensors = {name: np.asarray(leaf, order="C") for name, leaf in _leaves(model).items()}
    safetensors.numpy.save_file(tensors, unfinished / TENSORS)
    if model.classes:
        (unfinished / LABELS).write_text(labels, encoding="utf-8")
    if model.clip.tokenizer is not None:
        for file in tokenizer.files(Path(model.clip.tokenizer)):
            shutil.copy(file, unfinished / file.name)
    if directory.exists():
        directory.rmdir()
    os.replace(unfinished, directory)


def is_model_directory(path: str | Path) -> bool:
    """Whether `path` is a folder that `write` has made."""
    try:
        return json.loads((Path(path) / CONFIG).read_text()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def read(directory: str | Path, place: Place = keep) -> Model:
    """Reads a model directory, tensor by tensor.

    Args:
        directory: as `write` made it.
        place: what becomes of each tensor, by its name in the file; default: it stays a NumPy array.

    Raises:
        UserError: for a missing, extra, misshapen or truncated tensor file, or a broken config.json.
    """
    directory = Path(directory)
    model = _read_config(directory / CONFIG)
    classes = _read_classes(directory)
    shapes = param_shapes(model.dist, model.clip.vision, model.clip.text, len(classes))
    tree = table.unflatten(read_tensors(directory / TENSORS, shapes, place))
    clip = dataclasses.replace(model.clip, params=tree["clip"], tokenizer=tokenizer.beside(directory / CONFIG))
    return Model(model.dist, tree["dist"], clip, classes, tree.get("text_features"), model.evaluation)


def read_dist(directory: str | Path) -> Model:
    """The DiST network of a model directory alone (NumPy): CLIP is there without parameters, by name."""
    model = _read_config(Path(directory) / CONFIG)
    shapes = param_shapes(model.dist, model.clip.vision, model.clip.text, len(_read_classes(Path(directory))))
    leaves = read_tensors(Path(directory) / TENSORS, shapes, only="dist/")
    return dataclasses.replace(model, dist_params=table.unflatten(leaves)["dist"])


def param_shapes(
    dist: DistConfig, vision: VisionConfig, text: TextConfig | None, classes: int
) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model directory with its shape."""
    shapes = {f"dist/{path}": shape for path, shape in dist_official.param_shapes(dist).items()}
    shapes |= {f"clip/{path}": shape for path, shape in clip_weights.param_shapes(vision, text).items()}
    if classes:
        shapes["text_features"] = (classes, dist.embed_dim)
    return shapes


def read_tensors(
    file: Path, shapes: table.Shapes, place: Place = keep, only: str = ""
) -> dict[str, jax.Array | np.ndarray]:
    """The tensors of a safetensors file that shall have exactly these names and shapes; `only` a prefix of them."""
    if not file.is_file():
        raise UserError(f"{file} is missing: {file.parent} is no whole model directory")
    tensors = checkpoint_files.open_tensors(file)
    rows = tuple(table.Entry(name, (name,)) for name in shapes)
    table.check(rows, shapes, {name: tensor.shape for name, tensor in tensors.items()}, str(file))
    return {name: place(name, np.asarray(tensors[name])) for name in shapes if name.startswith(only)}


def _leaves(model: Model) -> Mapping[str, jax.Array | np.ndarray]:
    tree = {"dist": model.dist_params, "clip": model.clip.params}
    if model.text_features is not None:
        tree["text_features"] = model.text_features
    return table.flatten(tree)


def _config(model: Model) -> dict:
    clip = model.clip
    return {
        "format": FORMAT,
        "dist": dataclasses.asdict(model.dist),
        "vision": dataclasses.asdict(clip.vision),
        "text": None if clip.text is None else dataclasses.asdict(clip.text),
        "clip": {"name": clip.name, "fingerprint": clip.fingerprint},
        "evaluation": dataclasses.asdict(model.evaluation),
    }


def _read_config(file: Path) -> Model:
    """What a config.json says: the model without parameters, classes and tokenizer."""
    try:
        found = json.loads(file.read_text())
        if found["format"] != FORMAT:
            raise ValueError(f"format is {found['format']!r}, not {FORMAT!r}")
        dist = DistConfig(**{**found["dist"], "layers": tuple(found["dist"]["layers"])})
        text = None if found["text"] is None else TextConfig(**found["text"])
        named = found["clip"]
        clip = ClipModel(VisionConfig(**found["vision"]), text, {}, None, named["name"], named["fingerprint"])
        return Model(dist, {}, clip, evaluation=EvalProtocol(**found["evaluation"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{file} is not the configuration of a model directory ({problem})") from error


def _read_classes(directory: Path) -> tuple[str, ...]:
    return tuple(class_names.read(directory / LABELS)) if (directory / LABELS).exists() else ()
