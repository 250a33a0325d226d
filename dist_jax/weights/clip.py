"""CLIP, in all the ways in which somebody has its weights."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from dist_jax import hub
from dist_jax.errors import UserError
from dist_jax.models.clip_text import ClipText, TextConfig
from dist_jax.models.clip_vision import ClipVision, VisionConfig
from dist_jax.preprocess import MEAN, STD
from dist_jax.text import tokenizer
from dist_jax.weights import clip_formats, dist_official, table
from dist_jax.weights.checkpoint_files import Tensor, open_sharded, open_tensors

Place = Callable[[str, np.ndarray], jax.Array]  # (path, value in its final dtype) -> the value on its devices

# A directory's weights are the first of these that it has; those that need torch come last.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "flax_model.msgpack",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)
_CONFIGS = ("config.json", "open_clip_config.json", "preprocessor_config.json")
_LOG_SCALE_LIMIT = np.float32(np.log(100.0))  # CLIP's training keeps the scale below 100, where its models end up

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Clip:
    """A CLIP: sizes, parameters and where they came from."""

    vision: VisionConfig
    text: TextConfig | None  # None: the weights have no text tower
    params: dict  # {"vision": ClipVision's, "text": ClipText's or absent, "logit_scale": float32 []}
    tokenizer: str | None  # directory with its tokenizer's files
    name: str  # as it was asked for
    fingerprint: str  # of the float32 values before any cast or interpolation: equal for equal weights in any format


def load(weights: str, *, dtype: jnp.dtype = jnp.float32, resolution: int = 0, place: Place | None = None) -> Clip:
    """Loads a CLIP ViT.

    Args:
        weights: Hugging Face hub id (owner/name); directory of Hugging Face's or open_clip's files; or a file: OpenAI's
          .pt, open_clip's .bin or .safetensors, a published DiST .pyth (which has CLIP inside).
        dtype: of the parameters; logit_scale is float32 always.
        resolution: pixels, height and width of the frames that it shall see; 0: of those that it was trained with.
          Positions are interpolated where that differs.
        place: puts a parameter on its devices, sharded as it says. Parameters are read one after the other, so that
          the host never holds more than two copies of the largest.

    Returns:
        The CLIP.

    Raises:
        UserError: naming all tensors that are missing, unknown or of the wrong shape; or why the file is no CLIP ViT.
    """
    file = _find(weights)
    tensors = open_sharded(file) if file.name.endswith(".index.json") else open_tensors(file)
    files = tokenizer.files(file.parent)
    found = _Found(tensors, str(file), weights, str(file.parent) if files else None)
    _check_normalization(file.parent)
    if any(name.startswith(("vision_model.", "text_model.")) for name in tensors):
        rows, vision, text = _huggingface(found, file.parent / "config.json")
    else:
        found = dataclasses.replace(found, tensors=_without_network(tensors, str(file)))
        sure = "input_resolution" in found.tensors or len(found.tensors) < len(tensors)  # OpenAI's archive; DiST's file
        if not sure and not (file.parent / "open_clip_config.json").is_file():
            _log.warning("%s: taken as OpenAI's, with QuickGELU; a model of open_clip needs its config beside it", file)
        rows, vision, text = _openai(found, file.parent / "open_clip_config.json")
    return _read(found, rows, vision, text, dtype=dtype, resolution=resolution, place=place)


def from_openai(
    tensors: Mapping[str, Tensor],
    source: str,
    *,
    dtype: jnp.dtype = jnp.float32,
    resolution: int = 0,
    place: Place | None = None,
) -> Clip:
    """A CLIP from tensors by OpenAI's names (as a published DiST file has them), with QuickGELU; see `load`.

    `source` is what error messages and `Clip.name` say.
    """
    found = _Found(tensors, source, source, None)
    rows, vision, text = _openai(found, None)
    return _read(found, rows, vision, text, dtype=dtype, resolution=resolution, place=place)


def to_openai(clip: Clip) -> dict[str, np.ndarray]:
    """The tensors by OpenAI's names, in the parameters' dtype."""
    return _to_theirs(clip_formats.OPENAI, clip)


def save_huggingface(clip: Clip, directory: Path) -> None:
    """Writes config.json and model.safetensors (float32) for transformers' CLIPModel; no tokenizer files."""
    directory.mkdir(parents=True, exist_ok=True)
    config = clip_formats.huggingface_config(clip.vision, clip.text)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    # transformers' vision tower alone has no logit_scale.
    parts = clip if clip.text else dataclasses.replace(clip, params={"vision": clip.params["vision"]})
    tensors = {
        name: np.array(value, np.float32, order="C")
        for name, value in _to_theirs(clip_formats.HUGGINGFACE, parts).items()
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def resize_positions(positions: np.ndarray, grid: int) -> np.ndarray:
    """Positions float [1+N, D] of a square grid of patches, class token first -> float32 [1+grid*grid, D].

    Bicubic as torch's interpolate (align_corners=False, no antialiasing): Keys' kernel with a = -0.75, coordinates
    clamped at the border; jax.image takes a = -0.5 and antialiases.
    """
    old = round((len(positions) - 1) ** 0.5)
    if old == grid:
        return positions
    patches = positions[1:].astype(np.float64).reshape(old, old, -1)  # [h, w, D]
    weights = _bicubic_weights(old, grid)  # [grid, old]
    patches = np.einsum("yh,xw,hwd->yxd", weights, weights, patches, optimize=True)  # [grid, grid, D]
    return np.concatenate([positions[:1], patches.reshape(grid * grid, -1)]).astype(np.float32)


def _bicubic_weights(old: int, new: int) -> np.ndarray:
    centres = (np.arange(new) + 0.5) * old / new - 0.5  # in old pixels
    first = np.floor(centres).astype(int) - 1
    weights = np.zeros((new, old))
    for tap in range(4):
        distance = np.abs(centres - (first + tap))
        near = 1.25 * distance**3 - 2.25 * distance**2 + 1
        far = -0.75 * distance**3 + 3.75 * distance**2 - 6 * distance + 3
        np.add.at(weights, (np.arange(new), np.clip(first + tap, 0, old - 1)), np.where(distance <= 1, near, far))
    return weights


@dataclasses.dataclass(frozen=True)
class _Found:
    tensors: Mapping[str, Tensor]
    source: str  # for messages
    name: str
    tokenizer: str | None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}


def _find(weights: str) -> Path:
    """The file that holds the weights; from the hub, only what is needed is downloaded."""
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        file = _first_weights(path)
        if file is None:
            raise UserError(f"{weights}: none of {', '.join(_WEIGHTS)} is there")
        return file
    if not hub.is_id(weights):
        raise UserError(f"{weights}: no such file or directory, nor a hub id (owner/name)")
    for name in _WEIGHTS:
        shards = [name.replace(".safetensors.index.json", "-*").replace(".bin.index.json", "-*")]
        directory = hub.download(weights, [*_CONFIGS, *tokenizer.PATTERNS, name, *shards])
        file = _first_weights(directory)
        if file is not None:
            return file
    raise UserError(f"{weights}: the hub repository has none of {', '.join(_WEIGHTS)}")


def _first_weights(directory: Path) -> Path | None:
    return next((directory / name for name in _WEIGHTS if (directory / name).is_file()), None)


def _check_normalization(directory: Path) -> None:
    """Refuses a model that wants pixels normalised other than by CLIP's statistics, which the networks get."""
    for name, part, mean, std in (
        ("preprocessor_config.json", None, "image_mean", "image_std"),
        ("open_clip_config.json", "preprocess_cfg", "mean", "std"),
    ):
        file = directory / name
        config = _read_json(file) if file.is_file() else {}
        config = config.get(part, {}) if part else config
        for key, ours in ((mean, MEAN), (std, STD)):
            if key in config and not np.allclose(config[key], ours, atol=1e-3):
                raise UserError(f"{file}: {key} is {config[key]}; models with CLIP's, {list(ours)}, can be loaded")


def _read_json(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: no readable JSON ({error})") from error


def _huggingface(found: _Found, config: Path) -> tuple[table.Table, VisionConfig, TextConfig | None]:
    if not config.is_file():
        raise UserError(f"{found.source}: config.json is not beside it, which says the sizes; copy it from the model")
    rows = clip_formats.HUGGINGFACE
    text = clip_formats.has_text(rows, found.shapes)
    return rows, *clip_formats.huggingface_sizes(_read_json(config), text, str(config))


def _without_network(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """OpenAI's names without prefixes; of a published DiST file CLIP's tensors alone."""
    _, names = dist_official.split(list(tensors), source)
    return {today: tensors[name] for today, name in names.items()}


def _openai(found: _Found, open_clip: Path | None) -> tuple[table.Table, VisionConfig, TextConfig | None]:
    names = found.shapes
    if any(name.startswith(("visual.layer1.", "visual.attnpool.")) for name in names):
        raise UserError(
            f"{found.source}: a CLIP with a ResNet image tower, which cannot be loaded; take one with a ViT"
        )
    if not any(name.startswith("visual.") for name in names):
        raise UserError(f"{found.source}: no CLIP: its tensors are {', '.join(sorted(names)[:5])}, ...")
    cfg = None
    if open_clip is not None and open_clip.is_file():
        cfg = _read_json(open_clip).get("model_cfg", {})
        clip_formats.check_open_clip(cfg, str(open_clip))
    elif Path(found.source).name.startswith("open_clip"):
        raise UserError(f"{found.source}: open_clip_config.json is not beside it, which says the activation; copy it")
    rows = clip_formats.OPENAI
    text = clip_formats.has_text(rows, names)
    return rows, *clip_formats.openai_sizes(names, text, found.source, cfg)


def param_shapes(vision: VisionConfig, text: TextConfig | None) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter, by path; needs no memory."""
    frames = jax.ShapeDtypeStruct((1, vision.resolution, vision.resolution, 3), jnp.float32)
    towers = {"vision": _init_shapes(ClipVision(vision), frames), "logit_scale": jax.ShapeDtypeStruct((), jnp.float32)}
    if text is not None:
        towers["text"] = _init_shapes(ClipText(text), jax.ShapeDtypeStruct((1, text.context), jnp.int32))
    return {path: leaf.shape for path, leaf in table.flatten(towers).items()}


def _init_shapes(module: ClipVision | ClipText, example: jax.ShapeDtypeStruct) -> dict:
    return jax.eval_shape(module.init, jax.random.key(0), example)["params"]


def _read(
    found: _Found,
    rows: table.Table,
    vision: VisionConfig,
    text: TextConfig | None,
    *,
    dtype: jnp.dtype,
    resolution: int,
    place: Place | None,
) -> Clip:
    resolution = resolution or vision.resolution
    if resolution % vision.patch:
        raise UserError(f"resolution {resolution} is not a multiple of {vision.patch}, the patch of {found.name}")
    parts = [
        "vision",
        *(["text"] if text else []),
        *(["logit_scale"] if text or "logit_scale" in found.tensors else []),
    ]
    rows = clip_formats.only(rows, parts)
    shapes = {path: shape for path, shape in param_shapes(vision, text).items() if path.split("/")[0] in parts}
    table.check(rows, shapes, found.shapes, found.source, clip_formats.buffers(found.tensors))
    place = place or (lambda _, value: jnp.array(value))
    digests, leaves = {}, {}
    for path, value in table.to_ours(rows, lambda name: np.asarray(found.tensors[name], np.float32), shapes):
        digests[path] = _digest(path, value)
        if path == "vision/positions":
            value = resize_positions(value, resolution // vision.patch)
        leaves[path] = place(path, value.astype(np.float32 if path == "logit_scale" else dtype))
    if "logit_scale" not in leaves:
        _log.warning("%s has no text tower and no logit_scale: the scale of its logits is taken as 100", found.source)
        leaves["logit_scale"] = place("logit_scale", _LOG_SCALE_LIMIT)
    fingerprint = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
    vision = dataclasses.replace(vision, resolution=resolution)
    return Clip(vision, text, table.unflatten(leaves), found.tokenizer, found.name, fingerprint)


def _digest(path: str, value: np.ndarray) -> str:
    digest = hashlib.sha256(f"{path} {value.shape} ".encode())
    digest.update(np.ascontiguousarray(value))
    return digest.hexdigest()


def _to_theirs(rows: table.Table, clip: Clip) -> dict[str, np.ndarray]:
    leaves = {path: np.asarray(leaf) for path, leaf in table.flatten(clip.params).items()}
    return dict(table.to_theirs(clip_formats.only(rows, list(clip.params)), leaves))
