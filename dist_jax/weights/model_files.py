"""Reads trained models from model directories, training workdirs and published .pyth files."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from etils import epath

from dist_jax.errors import UserError
from dist_jax.models.backbones.text_tower import TextConfig
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.models.dist_network import DistConfig
from dist_jax.text import tokenizer
from dist_jax.weights import backbones, clip_configs, dist_official, hub_models, model_directory, table
from dist_jax.weights import clip as clip_weights
from dist_jax.weights.backbone_model import BackboneModel
from dist_jax.weights.label_choice import choose_label, select_label
from dist_jax.weights.model_directory import EvalProtocol, Model
from dist_jax.weights.openai_sizes import ClipSettings
from dist_jax.weights.table import Place, keep, place_under
from dist_jax.workdir import text_feature_cache
from dist_jax.workdir.run_metadata import RUN_FILE, RunMetadata, read_run_metadata

LoadClip = Callable[..., BackboneModel]  # weights.backbones.load with its last arguments
_NO_SETTINGS = ClipSettings()
KINDS = "a model directory, a training workdir or a published .pyth file"  # or a model directory on the hub


@dataclasses.dataclass(frozen=True)
class DistWeights:
    """Sizes and parameters of a trained network, without its CLIP."""

    network: str  # key of models.networks.NETWORKS
    dist: DistConfig
    params: dict  # NumPy, in the dtype of the file
    backbone: dict[str, str] | None  # "name" and "fingerprint" of the CLIP of its training; None: unknown


def read_model(
    path: str | Path,
    *,
    clip: str = "",
    use_clip: str = "",
    layers: tuple[int, ...] | None = None,
    place: Place = keep,
    clip_settings: ClipSettings = _NO_SETTINGS,
    label: str = "",
) -> Model:
    """Reads a trained model with its CLIP.

    Args:
        path: a model directory or its hub id, a training workdir or a published .pyth file. Of a workdir, the best
          checkpoint by the metric of its configuration, or the newest checkpoint.
        clip: CLIP weights for `weights.backbones.load`, instead of the CLIP in the model or in its configuration.
        use_clip: the CLIP to use if `clip` and the CLIP of the model differ: "given" or "inside"; "": raise an error.
        layers: backbone blocks that the network reads; necessary for a published file if CLIP has more blocks.
        place: function of each tensor's path ("dist/...", "clip/vision/...") and value; default: keep NumPy arrays.
        clip_settings: activation and numbers of heads, if the CLIP weights do not contain them. For a workdir, default:
          the settings of its configuration.
        label: the label to keep of a workdir with several labels, e.g. "verb"; "": the only one.

    Raises:
        UserError: no model at `path`, a damaged model, two different CLIPs, or an unknown label.
    """
    load_clip = partial(backbones.load, place=partial(place_under, "clip", place), settings=clip_settings)
    path = hub_models.locate(path)
    if label and not _is_workdir(path):
        raise UserError(f"{path} is not a training workdir and has one classifier; remove the label {label!r}")
    if clip_settings != _NO_SETTINGS and not clip and not _is_workdir(path):
        raise UserError("--activation and --num-heads describe the CLIP weights --clip; set --clip, or remove them")
    if _is_workdir(path):
        kind, model = "a training workdir", _read_workdir(str(path), clip, use_clip, place, clip_settings, label)
    elif model_directory.is_model_directory(path):
        kind, model = "a model directory", model_directory.read(path, place)
        if clip:
            clip_model = _choose_clip(model.clip_model, clip, use_clip, path, load_clip)
            model = dataclasses.replace(model, clip_model=clip_model)
    elif Path(path).is_file():
        kind, model = "", _read_pyth(Path(path), clip, use_clip, layers, place, load_clip)
    else:
        raise UserError(_not_a_model(Path(path)))
    if kind and layers is not None:
        raise UserError(f"{path} is {kind}, which contains the backbone blocks; remove --layers")
    _check_fits(model.dist, model.clip_model.vision, model.clip_model.name)
    return model


def is_trained(path: str | Path) -> bool:
    """True if `path` is a model directory or a training workdir."""
    return _is_workdir(path) or model_directory.is_model_directory(path)


def read_dist(path: str | Path) -> DistWeights:
    """Reads only the trained network of a model.

    A published file does not contain `dist.layers`. They are set to the first blocks, one per DiST layer.

    Raises:
        UserError: no model at `path`, or a damaged model.
    """
    path = hub_models.locate(path)
    if _is_workdir(path):
        metadata = read_run_metadata(str(path))
        return DistWeights(_network_name(metadata), *_run_network(str(path), metadata), metadata.backbone)
    if model_directory.is_model_directory(path):
        model = model_directory.read_dist(path)
        return DistWeights("dist", model.dist, model.dist_params, _name_and_fingerprint(model.clip_model))
    if Path(path).is_file():
        dist, params, clip_tensors = dist_official.read(Path(path))
        if not clip_tensors:
            return DistWeights("dist", dist, params, None)
        # Computing the fingerprint reads every CLIP parameter; `place` discards them.
        clip_model = clip_weights.from_openai(clip_tensors, str(path), place=lambda *_: None)
        return DistWeights("dist", dist, params, _name_and_fingerprint(clip_model))
    raise UserError(_not_a_model(Path(path)))


def read_quantize(path: str | Path) -> str:
    """config.backbone.quantize of the training of a model; empty if its files do not contain it.

    Raises:
        UserError: damaged metadata of a model directory or a training workdir.
    """
    if _is_workdir(path):
        return read_run_metadata(str(path)).config["backbone"].get("quantize", "")
    return model_directory.read_quantize(path) if model_directory.is_model_directory(path) else ""


def activations(clip_model: BackboneModel) -> list[str]:
    """The activations of CLIP's image and text tower; the fingerprint does not include them."""
    return [tower.activation for tower in (clip_model.vision, clip_model.text) if tower is not None]


def _name_and_fingerprint(clip_model: BackboneModel) -> dict[str, str]:
    return {"name": clip_model.name, "fingerprint": clip_model.fingerprint}


def _check_fits(dist: DistConfig, vision: VisionConfig, name: str) -> None:
    """Raises UserError if the network cannot read this image tower."""
    sizes = {
        "patch size": (vision.patch_size, dist.patch_size),
        "width": (vision.width, dist.backbone_width),
        "embedding size": (vision.embed_dim, dist.embed_dim),
    }
    problems = [
        f"{size} {actual}, expected {expected}" for size, (actual, expected) in sizes.items() if actual != expected
    ]
    if dist.layers[-1] >= vision.num_layers:
        problems.append(f"{vision.num_layers} blocks, but the network reads block {dist.layers[-1]} (counted from 0)")
    if problems:
        raise UserError(f"CLIP {name} does not fit the DiST network: it has {'; '.join(problems)}")


def _read_pyth(
    path: Path, clip: str, use_clip: str, layers: tuple[int, ...] | None, place: Place, load_clip: LoadClip
) -> Model:
    dist, params, clip_tensors = dist_official.read(path, layers)
    if clip_tensors:
        inside = clip_weights.from_openai(clip_tensors, str(path), partial(place_under, "clip", place))
        inside = dataclasses.replace(inside, tokenizer=tokenizer.find_next_to(path))
        clip_model = _choose_clip(inside, clip, use_clip, path, load_clip) if clip else inside
    elif clip:
        clip_model = load_clip(clip)
    else:
        raise UserError(f"{path} contains a DiST network without CLIP; set the CLIP weights with --clip")
    if layers is None and len(dist.layers) != clip_model.vision.num_layers:
        raise UserError(
            f"{path} has {len(dist.layers)} DiST layers, but its CLIP has {clip_model.vision.num_layers} blocks; list "
            "the blocks that it reads, counted from 0: --layers 1,3,..."
        )
    return Model(dist, _place_dist(params, place), clip_model)


def _read_workdir(path: str, clip: str, use_clip: str, place: Place, clip_settings: ClipSettings, label: str) -> Model:
    metadata = read_run_metadata(path)
    label = choose_label(path, metadata.class_names, label)
    dist, params = select_label(*_run_network(path, metadata), metadata.class_names, label)
    original = metadata.config["backbone"]["weights"]
    weights = original if use_clip == "inside" or not clip else clip
    if clip_settings == _NO_SETTINGS and use_clip != "given":  # `clip` has to be a copy of the CLIP of the training
        clip_settings = ClipSettings.from_config(metadata.config["backbone"])
    load_clip = partial(backbones.load, place=partial(place_under, "clip", place), settings=clip_settings)
    try:
        clip_model = load_clip(weights, resolution=metadata.model["resolution"])
    except UserError as error:
        if weights != original:
            raise
        raise UserError(
            f"{path} does not contain CLIP, and loading the CLIP of its training failed ({error}); set its location: "
            "dist_jax.load(path, clip=...) or python -m dist_jax.convert --clip ..."
        ) from error
    text_features = None
    if use_clip != "given":
        _check_same_clip(path, metadata, clip_model)
        text_features = text_feature_cache.read(path, metadata, label)
    return Model(
        dist=dist,
        dist_params=_place_dist(params, place),
        clip_model=clip_model,
        class_names=tuple(metadata.class_names[label]),
        text_features=None if text_features is None else place("text_features", text_features),
        eval_protocol=EvalProtocol.from_config(metadata.config),
        quantize=metadata.config["backbone"].get("quantize", ""),
        network=_network_name(metadata),
        prompt_templates=tuple(metadata.prompt_templates),
        multi_label=metadata.config["data"].get("multi_label", False),
        clip_seconds=metadata.clip_seconds,
    )


def _check_same_clip(path: str, metadata: RunMetadata, clip_model: BackboneModel) -> None:
    """Raises UserError if the run was trained with another CLIP."""
    solution = "set --clip to the weights of the training, or use --use-clip given to accept these"
    trained_on = metadata.backbone
    if clip_model.fingerprint != trained_on["fingerprint"]:
        raise UserError(
            f"{path} was trained with the CLIP {trained_on['name']} ({trained_on['fingerprint'][:12]}), but "
            f"{clip_model.name} is a different one ({clip_model.fingerprint[:12]}); {solution}"
        )
    trained_activations = metadata.model.get("activations")
    if trained_activations and trained_activations != activations(clip_model):
        raise UserError(
            f"{path} was trained with a CLIP with the activations {', '.join(trained_activations)}, but "
            f"{clip_model.name} has {', '.join(activations(clip_model))}; {solution}"
        )


def _network_name(metadata: RunMetadata) -> str:
    """config.model.network; runs of older versions do not have it."""
    return metadata.config["model"].get("network", "dist")


def _run_network(workdir: str, metadata: RunMetadata) -> tuple[DistConfig, dict]:
    from dist_jax.workdir import checkpoints  # imports Orbax, which takes seconds; only workdirs need it

    # Runs of older versions do not have the sizes with a default.
    names = [field.name for field in dataclasses.fields(DistConfig) if field.name in metadata.model]
    sizes = {name: metadata.model[name] for name in names}
    dist = DistConfig(**sizes | {"layers": tuple(sizes["layers"])})
    return dist, checkpoints.load_params(workdir, best_metric=metadata.config["checkpoint"]["best_metric"])[1]


def _is_workdir(path: str | Path) -> bool:
    return (epath.Path(path) / RUN_FILE).exists()  # epath: the workdir may be in a bucket


def _not_a_model(path: Path) -> str:
    if not path.exists():
        return f"{path} does not exist; expected {KINDS}"
    if (path / "config.json").is_file():
        return f"{path} contains no DiST network (a directory with only a CLIP is for --clip); expected {KINDS}"
    return f"{path} is not {KINDS}"


def _choose_clip(
    inside: BackboneModel, weights: str, use_clip: str, path: str | Path, load_clip: LoadClip
) -> BackboneModel:
    """The CLIP of the model or the CLIP `weights`; see `use_clip` of `read_model`."""
    given = load_clip(weights, resolution=inside.vision.resolution)
    if given.fingerprint == inside.fingerprint and not _size_differences(inside, given):
        return dataclasses.replace(given, tokenizer=given.tokenizer or inside.tokenizer)
    if use_clip == "given":
        return given
    if use_clip == "inside":
        return dataclasses.replace(inside, tokenizer=given.tokenizer or inside.tokenizer)
    raise UserError(
        f"the CLIP inside {path} and {weights} differ: {_clip_difference(inside, given)}; choose one with --use-clip "
        "inside or --use-clip given"
    )


def _clip_difference(first: BackboneModel, second: BackboneModel) -> str:
    """A description of the sizes or the parameters in which two CLIPs differ."""
    sizes = _size_differences(first, second)
    if sizes:
        return ", ".join(sizes)
    a, b = _leaves(first), _leaves(second)
    if a.keys() != b.keys():
        return "only one of them is quantised"
    gaps = {
        path: float(np.max(np.abs(np.asarray(a[path], np.float32) - np.asarray(b[path], np.float32)))) for path in a
    }
    gaps = {path: gap for path, gap in gaps.items() if gap > 0}
    if not gaps:
        return "only in the precision of the original files"
    worst = max(gaps, key=gaps.__getitem__)
    return f"{len(gaps)} of {len(a)} parameters, by at most {gaps[worst]:.3g} ({worst})"


def _leaves(model: BackboneModel) -> dict:
    """The parameters by path; a quantised one has several arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(model.params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _size_differences(first: BackboneModel, second: BackboneModel) -> list[str]:
    if first.kind != second.kind:
        return [f"the kinds {first.kind} and {second.kind}"]
    if (first.text is None) != (second.text is None):
        return [f"only {(second if first.text is None else first).name} has a text tower"]
    towers = (("vision", first.vision, second.vision), ("text", _text_sizes(first), _text_sizes(second)))
    return [
        f"{tower} {field.name} {getattr(a, field.name)} and {getattr(b, field.name)}"
        for tower, a, b in towers
        if a is not None
        for field in dataclasses.fields(a)
        if getattr(a, field.name) != getattr(b, field.name)
    ]


def _text_sizes(clip_model: BackboneModel) -> TextConfig | None:
    """The sizes of the text tower with an explicit end token: some formats do not contain it."""
    text = clip_model.text
    return text and dataclasses.replace(text, end_token=clip_configs.end_token(text))


def _place_dist(params: dict, place: Place) -> dict:
    return table.unflatten(
        {path: place_under("dist", place, path, leaf) for path, leaf in table.flatten(params).items()}
    )
