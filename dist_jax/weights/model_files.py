"""Every kind of file that a trained model is kept in: a model directory, a training workdir, a published .pyth."""

import dataclasses
from pathlib import Path

import numpy as np
from etils import epath

from dist_jax.errors import UserError
from dist_jax.models.backbones.clip_text import TextConfig
from dist_jax.models.backbones.clip_vision import VisionConfig
from dist_jax.models.dist_network import DistConfig
from dist_jax.text import tokenizer
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import clip_formats, dist_official, model_directory, table
from dist_jax.weights.clip import ClipModel
from dist_jax.weights.model_directory import EvalProtocol, Model
from dist_jax.weights.table import Place, keep
from dist_jax.workdir.run_metadata import RUN_FILE, RunMetadata, read_run_metadata

KINDS = "a model directory, a training workdir or a published .pyth file"


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained DiST network without its CLIP."""

    dist: DistConfig
    params: dict  # NumPy, in the dtype of their file
    backbone: dict[str, str] | None  # "name" and "fingerprint" of the CLIP that it was trained on; None: not known


def read_model(
    path: str | Path,
    *,
    clip: str = "",
    use_clip: str = "",
    selected: tuple[int, ...] | None = None,
    place: Place = keep,
) -> Model:
    """Reads a trained model with its CLIP.

    Args:
        path: a model directory, a training workdir (its best checkpoint, by the metric of its configuration, else the
          newest) or a published .pyth file.
        clip: CLIP weights (whatever `weights.clip.load` reads) instead of those that the model holds or names.
        use_clip: which one is meant where `clip` and the model's own differ: "given" or "inside"; "": that is an error.
        selected: CLIP blocks that the network reads; needed for a published file with fewer layers than its CLIP.
        place: what becomes of each tensor, by its path ("dist/...", "clip/vision/..."); default: a NumPy array.

    Raises:
        UserError: if the path holds no model, or a damaged one; if two CLIPs differ.
    """
    if _is_workdir(path):
        kind, model = "a training workdir", _read_workdir(str(path), clip, use_clip, place)
    elif model_directory.is_model_directory(path):
        kind, model = "a model directory", model_directory.read(path, place)
        if clip:
            model = dataclasses.replace(model, clip=_choose_clip(model.clip, clip, use_clip, path, place))
    elif Path(path).is_file():
        kind, model = "", _read_pyth(Path(path), clip, use_clip, selected, place)
    else:
        raise UserError(_not_a_model(Path(path)))
    if kind and selected is not None:
        raise UserError(f"{path} is {kind}, which knows the CLIP blocks that it reads; leave out --selected")
    check_fits(model.dist, model.clip.vision, model.clip.name)
    return model


def read_dist(path: str | Path) -> Network:
    """The DiST network of a model alone.

    A published file does not say which CLIP blocks it reads: here they are the first ones, as many as it has layers.
    """
    if _is_workdir(path):
        run = read_run_metadata(str(path))
        return Network(*_run_network(str(path), run), run.backbone)
    if model_directory.is_model_directory(path):
        model = model_directory.read_dist(path)
        return Network(model.dist, model.dist_params, _named(model.clip))
    if Path(path).is_file():
        dist, params, of_clip = dist_official.read(Path(path))
        # For the fingerprint every parameter is looked at, and none is kept.
        tower = clip_weights.from_openai(of_clip, str(path), place=lambda *_: None) if of_clip else None
        return Network(dist, params, tower and _named(tower))
    raise UserError(_not_a_model(Path(path)))


def _named(clip: ClipModel) -> dict[str, str]:
    return {"name": clip.name, "fingerprint": clip.fingerprint}


def check_fits(dist: DistConfig, vision: VisionConfig, name: str) -> None:
    """UserError if the network `dist` cannot read the image tower called `name`."""
    pairs = {
        "patch": (dist.patch_size, vision.patch_size),
        "width": (dist.backbone_width, vision.width),
        "embedding": (dist.embed_dim, vision.embed_dim),
    }
    differ = [
        f"{what} {mine} where the network needs {wanted}" for what, (wanted, mine) in pairs.items() if wanted != mine
    ]
    if dist.layers[-1] >= vision.num_layers:
        differ.append(f"{vision.num_layers} blocks where the network reads block {dist.layers[-1]}, counted from 0")
    if differ:
        raise UserError(f"CLIP {name} does not fit the DiST network: it has {', '.join(differ)}")


def _read_pyth(path: Path, clip: str, use_clip: str, selected: tuple[int, ...] | None, place: Place) -> Model:
    dist, params, of_clip = dist_official.read(path, selected)
    if not of_clip and not clip:
        raise UserError(f"{path} holds a DiST network without its CLIP; name the CLIP weights with --clip")
    if of_clip:
        tower = clip_weights.from_openai(of_clip, str(path), _below_clip(place))
        tower = dataclasses.replace(tower, tokenizer=tokenizer.beside(path))
        tower = _choose_clip(tower, clip, use_clip, path, place) if clip else tower
    else:
        tower = clip_weights.load(clip, place=_below_clip(place))
    if selected is None and len(dist.layers) != tower.vision.num_layers:
        raise UserError(
            f"{path} has {len(dist.layers)} layers, but its CLIP {tower.vision.num_layers} blocks; say which blocks it "
            "reads, counted from 0: --selected 1,3,..."
        )
    return Model(dist, _placed(params, place), tower)


def _read_workdir(path: str, clip: str, use_clip: str, place: Place) -> Model:
    run = read_run_metadata(path)
    dist, params = _run_network(path, run)
    own = run.config["backbone"]["weights"]
    weights = own if use_clip == "inside" or not clip else clip
    try:
        tower = clip_weights.load(weights, resolution=run.model["resolution"], place=_below_clip(place))
    except UserError as error:
        if weights != own:
            raise
        raise UserError(
            f"{path} holds no CLIP, and the one that it was trained with cannot be loaded ({error}); say where it is "
            "now: dist_jax.load(path, clip=...) or python -m dist_jax.convert --clip ..."
        ) from error
    if use_clip != "given":
        _check_same_clip(path, run, tower)
    return Model(dist, _placed(params, place), tower, tuple(run.class_names), None, EvalProtocol.of(run.config))


def _check_same_clip(path: str, run: "RunMetadata", tower: ClipModel) -> None:
    """Raises UserError if a run was trained with another CLIP."""
    mend = "give --clip the same weights, or say --use-clip given to use these"
    if tower.fingerprint != run.backbone["fingerprint"]:
        raise UserError(
            f"{path} was trained with the CLIP {run.backbone['name']} ({run.backbone['fingerprint'][:12]}), but "
            f"{tower.name} holds another one ({tower.fingerprint[:12]}); {mend}"
        )
    before = run.model.get("activations")  # which runs did not tell at first
    if before and before != activations(tower):
        raise UserError(
            f"{path} was trained with the activations {', '.join(before)} in CLIP, but {tower.name} has "
            f"{', '.join(activations(tower))}; {mend}"
        )


def activations(clip: ClipModel) -> list[str]:
    """Those of CLIP's image and text tower, which the fingerprint of its parameters does not tell."""
    return [tower.activation for tower in (clip.vision, clip.text) if tower is not None]


def _run_network(workdir: str, run: RunMetadata) -> tuple[DistConfig, dict]:
    from dist_jax.workdir import checkpoints  # Orbax takes seconds to import and is needed for workdirs alone

    sizes = {field.name: run.model[field.name] for field in dataclasses.fields(DistConfig)}
    dist = DistConfig(**sizes | {"layers": tuple(sizes["layers"])})
    return dist, checkpoints.load_params(workdir, best_metric=run.config["checkpoint"]["best_metric"])[1]


def _is_workdir(path: str | Path) -> bool:
    return (epath.Path(path) / RUN_FILE).exists()  # perhaps in a bucket


def _not_a_model(path: Path) -> str:
    if not path.exists():
        return f"{path} does not exist; wanted {KINDS}"
    if (path / "config.json").is_file():
        return f"{path} holds no DiST network (perhaps a CLIP alone, which is for --clip); wanted {KINDS}"
    return f"{path} is not {KINDS}"


def _choose_clip(inside: ClipModel, weights: str, use_clip: str, path: str | Path, place: Place) -> ClipModel:
    """The model's own CLIP or the given weights: whichever if they are the same, else the one asked for."""
    resolution = inside.vision.resolution
    given = clip_weights.load(weights, resolution=resolution, place=_below_clip(place))
    if given.fingerprint == inside.fingerprint and not _size_differences(inside, given):
        return dataclasses.replace(given, tokenizer=given.tokenizer or inside.tokenizer)
    if use_clip == "given":
        return given
    if use_clip == "inside":
        return dataclasses.replace(inside, tokenizer=given.tokenizer or inside.tokenizer)
    raise UserError(
        f"the CLIP inside {path} and {weights} differ: {clip_difference(inside, given)}. Say which is meant: "
        "--use-clip inside or --use-clip given"
    )


def clip_difference(one: ClipModel, other: ClipModel) -> str:
    """In words: the sizes in which two CLIPs differ, or the tensors and by how much."""
    sizes = _size_differences(one, other)
    if sizes:
        return ", ".join(sizes)
    a, b = table.flatten(one.params), table.flatten(other.params)
    gaps = {
        path: float(np.max(np.abs(np.asarray(a[path], np.float32) - np.asarray(b[path], np.float32)))) for path in a
    }
    gaps = {path: gap for path, gap in gaps.items() if gap > 0}
    if not gaps:
        return "in the original files' precision alone"
    worst = max(gaps, key=gaps.__getitem__)
    return f"{len(gaps)} of {len(a)} parameters, most {worst}, by up to {gaps[worst]:.3g}"


def _size_differences(one: ClipModel, other: ClipModel) -> list[str]:
    if (one.text is None) != (other.text is None):
        return [f"only {(other if one.text is None else one).name} has a text tower"]
    return [
        f"{tower} {field.name} {getattr(a, field.name)} and {getattr(b, field.name)}"
        for tower, a, b in (("vision", one.vision, other.vision), ("text", _text_sizes(one), _text_sizes(other)))
        if a is not None
        for field in dataclasses.fields(a)
        if getattr(a, field.name) != getattr(b, field.name)
    ]


def _text_sizes(clip: ClipModel) -> TextConfig | None:
    """Some formats say the end token, others find it as the largest id."""
    return clip.text and dataclasses.replace(clip.text, end_token=clip_formats.end_token(clip.text))


def _below_clip(place: Place) -> Place:
    return lambda path, value: place(f"clip/{path}", value)


def _placed(params: dict, place: Place) -> dict:
    return table.unflatten({path: place(f"dist/{path}", leaf) for path, leaf in table.flatten(params).items()})
