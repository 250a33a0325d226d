"""Every kind of file that a trained model is kept in: a model directory, a training workdir, a published .pyth."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from dist_jax.errors import UserError
from dist_jax.models.clip_vision import VisionConfig
from dist_jax.models.dist_network import DistConfig
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import dist_official, model_directory, table
from dist_jax.weights.clip import Clip
from dist_jax.weights.model_directory import Evaluation, Model, Place

if TYPE_CHECKING:
    from dist_jax.checkpoint import Run

KINDS = "a model directory, a training workdir or a published .pyth file"
RUN_FILE = "run.json"  # what makes a folder a training workdir


def read_model(
    path: str | Path,
    *,
    clip: str = "",
    use_clip: str = "",
    selected: tuple[int, ...] | None = None,
    place: Place = model_directory.keep,
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


def read_dist(path: str | Path) -> tuple[DistConfig, dict]:
    """The DiST network of a model alone: its sizes and its parameters (NumPy).

    A published file does not say which CLIP blocks it reads: here they are the first ones, as many as it has layers.
    """
    if _is_workdir(path):
        return _run_network(str(path))
    if model_directory.is_model_directory(path):
        return model_directory.read_dist(path)
    if Path(path).is_file():
        return dist_official.read_network(Path(path))
    raise UserError(_not_a_model(Path(path)))


def check_fits(dist: DistConfig, vision: VisionConfig, name: str) -> None:
    """UserError if the network `dist` cannot read the image tower called `name`."""
    pairs = {
        "patch": (dist.patch, vision.patch),
        "width": (dist.clip_width, vision.width),
        "embedding": (dist.embed, vision.embed),
    }
    differ = [
        f"{what} {mine} where the network needs {wanted}" for what, (wanted, mine) in pairs.items() if wanted != mine
    ]
    if dist.selected[-1] >= vision.layers:
        differ.append(f"{vision.layers} blocks where the network reads block {dist.selected[-1]}, counted from 0")
    if differ:
        raise UserError(f"CLIP {name} does not fit the DiST network: it has {', '.join(differ)}")


def _read_pyth(path: Path, clip: str, use_clip: str, selected: tuple[int, ...] | None, place: Place) -> Model:
    dist, params = dist_official.read_network(path, selected)
    inside = dist_official.holds_clip(path)
    if not inside and not clip:
        raise UserError(f"{path} holds a DiST network without its CLIP; name the CLIP weights with --clip")
    tower = clip_weights.load(str(path) if inside else clip, dtype=np.float32, place=_below_clip(place))
    if inside and clip:
        tower = _choose_clip(tower, clip, use_clip, path, place)
    if selected is None and len(dist.selected) != tower.vision.layers:
        raise UserError(
            f"{path} has {len(dist.selected)} layers, but its CLIP {tower.vision.layers} blocks; say which blocks it "
            "reads, counted from 0: --selected 1,3,..."
        )
    return Model(dist, _placed(params, place), tower)


def _read_workdir(path: str, clip: str, use_clip: str, place: Place) -> Model:
    run = _run(path)
    dist, params = _run_network(path)
    weights = run.config["clip"]["weights"] if use_clip == "inside" or not clip else clip
    resolution = run.model["resolution"]
    tower = clip_weights.load(weights, dtype=np.float32, resolution=resolution, place=_below_clip(place))
    if tower.fingerprint != run.backbone["fingerprint"] and use_clip != "given":
        raise UserError(
            f"{path} was trained with the CLIP {run.backbone['name']} ({run.backbone['fingerprint'][:12]}), but "
            f"{weights} holds another one ({tower.fingerprint[:12]}); give --clip the same weights, or say "
            "--use-clip given to use these"
        )
    settings = run.config
    evaluation = Evaluation(
        **{name: settings["eval"][name] for name in ("views", "crops", "fuse")},
        **{name: settings["data"][name] for name in ("sampling", "stride")},
    )
    return Model(dist, _placed(params, place), tower, tuple(run.classes), None, evaluation)


def _run_network(workdir: str) -> tuple[DistConfig, dict]:
    from dist_jax import checkpoint  # Orbax takes seconds to import and is needed for workdirs alone

    run = _run(workdir)
    sizes = {name: value for name, value in run.model.items() if name != "resolution"}
    dist = DistConfig(**sizes | {"selected": tuple(sizes["selected"])})
    return dist, checkpoint.load_params(workdir, best=run.config["checkpoint"]["best"])[1]


def _run(workdir: str) -> "Run":
    from dist_jax import checkpoint

    return checkpoint.read_run(workdir)


def _is_workdir(path: str | Path) -> bool:
    return (epath.Path(path) / RUN_FILE).exists()  # perhaps in a bucket


def _not_a_model(path: Path) -> str:
    if not path.exists():
        return f"{path} does not exist; wanted {KINDS}"
    if (path / "config.json").is_file():
        return f"{path} holds no DiST network (perhaps a CLIP alone, which is for --clip); wanted {KINDS}"
    return f"{path} is not {KINDS}"


def _choose_clip(inside: Clip, weights: str, use_clip: str, path: str | Path, place: Place) -> Clip:
    """The model's own CLIP or the given weights: whichever if they are the same, else the one asked for."""
    resolution = inside.vision.resolution
    given = clip_weights.load(weights, dtype=np.float32, resolution=resolution, place=_below_clip(place))
    if use_clip == "given" or (given.fingerprint == inside.fingerprint and not _size_differences(inside, given)):
        return given
    if use_clip == "inside":
        return dataclasses.replace(inside, tokenizer=given.tokenizer or inside.tokenizer)
    raise UserError(
        f"the CLIP inside {path} and {weights} differ: {clip_difference(inside, given)}. Say which is meant: "
        "--use-clip inside or --use-clip given"
    )


def clip_difference(one: Clip, other: Clip) -> str:
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


def _size_differences(one: Clip, other: Clip) -> list[str]:
    if (one.text is None) != (other.text is None):
        return [f"only {(other if one.text is None else one).name} has a text tower"]
    return [
        f"{tower} {field.name} {getattr(a, field.name)} and {getattr(b, field.name)}"
        for tower, a, b in (("vision", one.vision, other.vision), ("text", one.text, other.text))
        if a is not None
        for field in dataclasses.fields(a)
        # The end token is also the highest one, by which some formats find it.
        if field.name != "end_token" and getattr(a, field.name) != getattr(b, field.name)
    ]


def _below_clip(place: Place) -> Place:
    return lambda path, value: place(f"clip/{path}", value)


def _placed(params: dict, place: Place) -> dict:
    return table.unflatten({path: place(f"dist/{path}", leaf) for path, leaf in table.flatten(params).items()})
