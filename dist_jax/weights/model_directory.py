"""Model directories: a complete trained model in one directory.

config.json          sizes of the DiST network and of the towers, kind of the backbone (optional; CLIP), its name and
                     fingerprint, evaluation protocol,
                     backbone.quantize of the training (optional; the parameters are float), prompt templates,
                     data.multi_label and mean clip length of the training (optional)
model.safetensors    "dist/...", "clip/vision/...", "clip/text/...", "clip/logit_scale" ..., "text_features"
labels.txt           class names, one per line, in the order of text_features (optional)
tokenizer files      copied from the CLIP directory (optional; without them, the model accepts only token ids)
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from dist_jax import class_names, config
from dist_jax.errors import UserError
from dist_jax.files import new_folder
from dist_jax.models.backbones.text_tower import TextConfig
from dist_jax.models.backbones.vit import VitBackbone
from dist_jax.models.dist_network import DistConfig
from dist_jax.models.quantization import check_quantize
from dist_jax.text import tokenizer
from dist_jax.typing import PyTree
from dist_jax.weights import checkpoint_files, dist_official, table
from dist_jax.weights.backbone_model import BackboneModel
from dist_jax.weights.backbones import KINDS
from dist_jax.weights.table import Place, keep

CONFIG, TENSORS, LABELS = "config.json", "model.safetensors", "labels.txt"
FORMAT = "dist_jax model 3"
# Format 2 (dist_jax 0.2) has no mlp_dim, which was 4 * width. Format 1 had other names of sizes and is not read.
_READ_FORMATS = ("dist_jax model 2", FORMAT)
# Metadata of TENSORS: hash of the sizes that the file was written for, and of LABELS.
_SIZES, _LABELS_HASH = "sizes", "labels"
_DEFAULT_KIND = "clip"  # of the backbone
_FORMAT_PREFIX = "dist_jax model "  # of all formats


@dataclasses.dataclass(frozen=True)
class EvalProtocol:
    """How clips are sampled from a video at test time. The fields are settings of `config.py`."""

    num_views: int
    num_crops: int
    zero_shot_weight: float
    sampling: str
    stride: int

    @classmethod
    def from_config(cls, settings: Mapping) -> "EvalProtocol":
        """The protocol of a run's configuration."""
        return cls(
            **{name: settings["eval"][name] for name in ("num_views", "num_crops", "zero_shot_weight")},
            **{name: settings["data"][name] for name in ("sampling", "stride")},
        )


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model: a DiST network, its backbone and its classes.

    A model directory can hold every model with the network "dist".
    """

    dist: DistConfig
    dist_params: dict
    clip_model: BackboneModel
    class_names: tuple[str, ...] = ()  # K names; may be empty
    text_features: np.ndarray | None = None  # of the class names, float32 [K, E], unit length
    eval_protocol: EvalProtocol = dataclasses.field(default_factory=lambda: EvalProtocol.from_config(config.defaults()))
    quantize: str = ""  # config.backbone.quantize of the training; `clip_model` from a file has float parameters
    network: str = "dist"  # config.model.network of the training; NO_NETWORK: plain CLIP
    prompt_templates: tuple[str, ...] = ()  # texts around the class names in the training; empty: the names alone
    multi_label: bool = False  # config.data.multi_label of the training: the probability of each class is a sigmoid
    clip_seconds: float | None = None  # mean length of the training clips; None: unknown


def write(directory: str | Path, model: Model) -> None:
    """Writes a model directory atomically.

    Raises:
        UserError: the network is not DiST; the directory exists and is not empty, or labels.txt cannot represent the
          class names.
    """
    if model.network != "dist":
        raise UserError(f"model directories hold DiST networks, not {model.network}; use the workdir of the training")
    labels = class_names.to_text(model.class_names)
    with new_folder(Path(directory)) as folder:
        (folder / CONFIG).write_text(json.dumps(_config(model), indent=1) + "\n")
        # safetensors ignores the strides of transposed views, so the arrays must be contiguous.
        tensors = {name: np.asarray(leaf, order="C") for name, leaf in _leaves(model).items()}
        metadata = {_SIZES: _sizes_digest(model)}
        if model.class_names:
            (folder / LABELS).write_text(labels, encoding="utf-8")
            metadata[_LABELS_HASH] = _labels_digest(model.class_names)
        checkpoint_files.write_safetensors(folder / TENSORS, tensors, metadata)
        if model.clip_model.tokenizer is not None:
            for file in tokenizer.files(Path(model.clip_model.tokenizer)):
                shutil.copyfile(file, folder / file.name)


def is_model_directory(path: str | Path) -> bool:
    """True if `path` is a model directory of any format version."""
    try:
        return json.loads((Path(path) / CONFIG).read_text()).get("format", "").startswith(_FORMAT_PREFIX)
    except (OSError, ValueError, AttributeError):
        return False


def read(directory: str | Path, place: Place = keep) -> Model:
    """Reads a model directory, one tensor at a time.

    Args:
        directory: written by `write`.
        place: function of each tensor's name and value; default: keep NumPy arrays.

    Raises:
        UserError: missing or unknown tensors, tensors of wrong shape, a truncated file, an invalid config.json, or
          other class names than those of the text features.
    """
    directory = Path(directory)
    model = _read_config(directory / CONFIG)
    names = _read_class_names(directory)
    _check_class_names(directory, names)
    model = dataclasses.replace(model, class_names=names)
    tree = table.unflatten(read_tensors(directory / TENSORS, _shapes(directory / TENSORS, model), place))
    clip_model = dataclasses.replace(
        model.clip_model, params=tree["clip"], tokenizer=tokenizer.find_next_to(directory / CONFIG)
    )
    return dataclasses.replace(
        model,
        dist_params=tree["dist"],
        clip_model=clip_model,
        text_features=tree.get("text_features"),
    )


def read_dist(directory: str | Path) -> Model:
    """Reads only the DiST network (NumPy) of a model directory; `clip_model` has no parameters."""
    directory = Path(directory)
    model = _read_config(directory / CONFIG)
    num_classes = len(_read_class_names(directory))
    shapes = param_shapes(model.dist, model.clip_model.backbone(), num_classes)
    leaves = read_tensors(directory / TENSORS, shapes, prefix="dist/")
    return dataclasses.replace(model, dist_params=table.unflatten(leaves)["dist"])


def read_quantize(directory: str | Path) -> str:
    """`Model.quantize` of a model directory; reads no parameters."""
    return _read_config(Path(directory) / CONFIG).quantize


def param_shapes(dist: DistConfig, backbone: VitBackbone, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in model.safetensors, by name."""
    network = dist_official.param_shapes(dist, backbone.num_prefix_tokens)
    shapes = {f"dist/{path}": shape for path, shape in network.items()}
    shapes |= {f"clip/{path}": leaf.shape for path, leaf in table.flatten(backbone.param_shapes()).items()}
    if num_classes:
        shapes["text_features"] = (num_classes, dist.embed_dim)
    return shapes


def read_tensors(
    file: Path, shapes: table.Shapes, place: Place = keep, prefix: str = ""
) -> dict[str, jax.Array | np.ndarray]:
    """Reads the tensors of a safetensors file whose names start with `prefix`.

    Raises:
        UserError: the file does not hold exactly the tensors of `shapes`.
    """
    if not file.is_file():
        raise UserError(f"{file} is missing: the model directory {file.parent} is incomplete")
    tensors = checkpoint_files.open_tensors(file)
    rows = tuple(table.Entry(name, (name,)) for name in shapes)
    table.check(rows, shapes, {name: tensor.shape for name, tensor in tensors.items()}, str(file))
    return {name: place(name, np.asarray(tensors[name])) for name in shapes if name.startswith(prefix)}


def _shapes(file: Path, model: Model) -> table.Shapes:
    """The shapes that the tensors of a model directory must have.

    Computing them means tracing both towers and the network, a third of the time that a prediction of a small model
    takes. If `file` was written for these sizes, its own shapes are right.
    """
    if checkpoint_files.safetensors_metadata(file).get(_SIZES) == _sizes_digest(model):
        return {name: tensor.shape for name, tensor in checkpoint_files.open_tensors(file).items()}
    return param_shapes(model.dist, model.clip_model.backbone(), len(model.class_names))


def _sizes_digest(model: Model) -> str:
    """Hash of all sizes that decide the shapes of the parameters."""
    config = _config(model)
    sizes = [config["dist"], config["vision"], config["text"], len(model.class_names)]
    sizes += [config["backbone"]] if "backbone" in config else []
    return hashlib.sha256(json.dumps(sizes, sort_keys=True).encode()).hexdigest()


def _leaves(model: Model) -> Mapping[str, jax.Array | np.ndarray]:
    tree: dict[str, PyTree] = {"dist": model.dist_params, "clip": model.clip_model.params}
    if model.text_features is not None:
        tree["text_features"] = model.text_features
    return table.flatten(tree)


def _config(model: Model) -> dict:
    clip_model = model.clip_model
    # CLIP is the default: versions without other backbones read these directories.
    kind = {} if clip_model.kind == _DEFAULT_KIND else {"backbone": clip_model.kind}
    return {
        "format": FORMAT,
        **kind,
        "dist": dataclasses.asdict(model.dist),
        "vision": dataclasses.asdict(clip_model.vision),
        "text": None if clip_model.text is None else dataclasses.asdict(clip_model.text),
        "clip": {"name": clip_model.name, "fingerprint": clip_model.fingerprint},
        "eval_protocol": dataclasses.asdict(model.eval_protocol),
        "quantize": model.quantize,
        "prompt_templates": list(model.prompt_templates),
        "multi_label": model.multi_label,
        "clip_seconds": model.clip_seconds,
    }


def _read_config(file: Path) -> Model:
    """The model of a config.json, without parameters, class names and tokenizer."""
    try:
        content = json.loads(file.read_text())
        if content["format"] not in _READ_FORMATS:
            raise UserError(
                f"{file} has format {content['format']!r}, this dist_jax reads "
                f"{' and '.join(map(repr, _READ_FORMATS))}; convert the model again from its workdir or .pyth file, or "
                "use the version of dist_jax that wrote it"
            )
        dist = DistConfig(**{**content["dist"], "layers": tuple(content["dist"]["layers"])})
        kind = content.get("backbone", _DEFAULT_KIND)
        if kind not in KINDS:
            raise UserError(f"{file}: unknown backbone {kind!r}, this dist_jax has {', '.join(KINDS)}")
        vision = KINDS[kind].backbone_class.vision_config(**content["vision"])
        text = None if content["text"] is None else TextConfig(**content["text"])
        clip_model = KINDS[kind](vision, text, {}, None, content["clip"]["name"], content["clip"]["fingerprint"])
        quantize = content.get("quantize", "")  # dist_jax 0.2 does not write it
        check_quantize("quantize", quantize)
        return Model(
            dist=dist,
            dist_params={},
            clip_model=clip_model,
            eval_protocol=EvalProtocol(**content["eval_protocol"]),
            quantize=quantize,
            prompt_templates=tuple(content.get("prompt_templates", ())),
            multi_label=content.get("multi_label", False),
            clip_seconds=content.get("clip_seconds"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{file} is not the configuration of a model directory ({problem})") from error


def _check_class_names(directory: Path, names: tuple[str, ...]) -> None:
    """Raises UserError unless the text features belong to these names. Versions before 0.3 do not store their hash."""
    if not (directory / TENSORS).is_file():
        return  # `read_tensors` says that it is missing
    expected = checkpoint_files.safetensors_metadata(directory / TENSORS).get(_LABELS_HASH)
    if expected is not None and expected != _labels_digest(names):
        problem = "has other class names than" if names else "is missing, which has the class names of"
        raise UserError(
            f"{directory / LABELS} {problem} the text features in {TENSORS}; restore it (for other class names, run "
            f"python -m dist_jax.convert --input {directory} --labels FILE --output NEW)"
        )


def _labels_digest(names: tuple[str, ...]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _read_class_names(directory: Path) -> tuple[str, ...]:
    return tuple(class_names.read(directory / LABELS)) if (directory / LABELS).exists() else ()
