"""CLIP, in all the ways in which somebody has its weights."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from dist_jax.errors import UserError, warn
from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.backbones.clip_text import ClipText, TextConfig
from dist_jax.models.backbones.clip_vision import ClipVision, VisionConfig
from dist_jax.text import tokenizer
from dist_jax.text.text_features import encode_tokens
from dist_jax.weights import clip_files, clip_formats, dist_official, table
from dist_jax.weights.checkpoint_files import Tensor, open_sharded, open_tensors
from dist_jax.weights.table import Place, keep

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

Texts = Sequence[str] | np.ndarray | jax.Array  # strings, or their token ids int [K, any length]

_LOG_SCALE_LIMIT = np.log(np.full((), 100, np.float32))  # CLIP's training keeps the scale below, where models end up


@dataclasses.dataclass(frozen=True)
class ClipModel:
    """A CLIP: sizes, parameters and where they came from."""

    vision: VisionConfig
    text: TextConfig | None  # None: the weights have no text tower
    params: dict  # {"vision": ClipVision's, "text": ClipText's or absent, "logit_scale": float32 []}
    tokenizer: str | None  # directory with its tokenizer's files
    name: str  # as it was asked for
    fingerprint: str  # of the float32 values before any cast or interpolation: equal for equal weights in any format

    def backbone(self, dtype: jnp.dtype = jnp.float32) -> ClipBackbone:
        """The backbone for the model; `dtype` of the image tower's arithmetic."""
        return ClipBackbone(self.vision, self.text, dtype)

    def encode_texts(self, texts: Texts) -> jax.Array:
        """Texts, or their token ids int [K, any length], -> text embeddings float32 [K, E], unit length.

        A text longer than the context loses its last tokens, not its end token. Texts are taken as they are, without
        a prompt, as in training.

        Raises:
            UserError: if there is no text tower, for strings no tokenizer or one of another text tower; for what is
              no list of strings; for ids that cannot be.
        """
        if self.text is None:
            raise UserError(f"{self.name} has no text tower, which texts need; give a complete CLIP")
        if hasattr(texts, "dtype"):
            return encode_tokens(self.text, self.params["text"], np.asarray(texts))
        if self.tokenizer is None:
            raise UserError(
                f"{self.name} has no tokenizer files, so it takes token ids (int [K, context]) but no strings; copy "
                "the CLIP model's beside its weights, or give them to python -m dist_jax.convert by --tokenizer DIR"
            )
        if not len(texts):
            raise UserError("no texts are given; wanted at least one")
        tokens = tokenizer.encode(self._loaded_tokenizer, texts, self.text.context_length)
        read = tokens.max(axis=1) if self.text.end_token is None else np.full(len(tokens), self.text.end_token)
        strangers = f"the tokenizer of {self.tokenizer} does not belong to the text tower of {self.name}"
        if (read != self._loaded_tokenizer.eos_token_id).any():
            raise UserError(
                f"{strangers}: it ends a text with token {self._loaded_tokenizer.eos_token_id}, the tower reads a text "
                f"at {'the highest token' if self.text.end_token is None else f'token {self.text.end_token}'}"
            )
        try:
            return encode_tokens(self.text, self.params["text"], tokens)
        except UserError as error:
            raise UserError(f"{strangers}: {error}") from error

    @cached_property
    def _loaded_tokenizer(self) -> "CLIPTokenizer":
        return tokenizer.load(self.tokenizer)


def load(weights: str, *, resolution: int = 0, place: Place = keep) -> ClipModel:
    """Loads a CLIP ViT.

    Args:
        weights: Hugging Face hub id (owner/name); directory of Hugging Face's or open_clip's files; or a file: OpenAI's
          .pt, open_clip's .bin or .safetensors, a published DiST .pyth (which has CLIP inside).
        resolution: pixels, height and width of the frames that it shall see; 0: of those that it was trained with.
          Positions are interpolated where that differs.
        place: what becomes of each parameter, by its path ("vision/...", "text/...", "logit_scale"). They are read one
          after the other, so that the host never holds more than two copies of the largest, if `place` keeps none.

    Returns:
        The CLIP.

    Raises:
        UserError: naming all tensors that are missing, unknown or of the wrong shape; or why the file is no CLIP ViT.
    """
    file = clip_files.find(weights)
    tensors = open_sharded(file) if file.name.endswith(".index.json") else open_tensors(file)
    found = _Found(tensors, str(file), weights, tokenizer.beside(file))
    if any(name.startswith(("vision_model.", "text_model.")) for name in tensors):
        clip_files.check_normalization(file.parent)
        return _read(found, *_huggingface(found, file.parent / clip_files.CONFIG), resolution, place)
    network, names = dist_official.split(list(tensors), str(file))
    found = dataclasses.replace(found, tensors={today: tensors[name] for today, name in names.items()})
    # OpenAI's archives, which tell their input_resolution, and DiST's files are OpenAI's models: what lies beside them
    # in their folder is none of theirs.
    open_clip = None
    if not network and "input_resolution" not in tensors:
        clip_files.check_normalization(file.parent)
        open_clip = file.parent / clip_files.OPEN_CLIP_CONFIG
    return _read(found, *_openai(found, open_clip), resolution, place)


def from_openai(tensors: Mapping[str, Tensor], source: str, place: Place = keep) -> ClipModel:
    """A CLIP from tensors by OpenAI's names (as a published DiST file has them), with QuickGELU; see `load`.

    `source` is what error messages and `ClipModel.name` say.
    """
    found = _Found(tensors, source, source, None)
    return _read(found, *_openai(found, None), 0, place)


def to_openai(clip: ClipModel) -> dict[str, np.ndarray]:
    """The tensors by OpenAI's names, in the parameters' dtype.

    Raises:
        UserError: naming all sizes that readers of these names would take for others.
    """
    conflicts = clip_formats.openai_conflicts(clip.vision, clip.text)
    if conflicts:
        raise UserError(f"the published PyTorch format cannot express {clip.name}: {'; '.join(conflicts)}")
    return _to_theirs(clip_formats.OPENAI, clip)


def save_huggingface(clip: ClipModel, directory: Path) -> None:
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


def _huggingface(found: _Found, config: Path) -> tuple[table.Table, VisionConfig, TextConfig | None]:
    if not config.is_file():
        raise UserError(f"{found.source}: config.json is not beside it, which says the sizes; copy it from the model")
    rows = clip_formats.HUGGINGFACE
    text = clip_formats.has_text(rows, found.shapes)
    return rows, *clip_formats.huggingface_sizes(clip_files.read_json(config), text, str(config))


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
        cfg = clip_files.read_json(open_clip).get("model_cfg") or {}
        clip_formats.check_open_clip(cfg, str(open_clip))
    elif Path(found.source).name.startswith("open_clip"):
        raise UserError(f"{found.source}: open_clip_config.json is not beside it, which says the activation; copy it")
    elif open_clip is not None:
        warn(f"{found.source}: taken as OpenAI's, with QuickGELU; a model of open_clip needs its config beside it")
    rows = clip_formats.OPENAI
    text = clip_formats.has_text(rows, names)
    return rows, *clip_formats.openai_sizes(names, text, found.source, cfg)


def param_shapes(vision: VisionConfig, text: TextConfig | None) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter, by path; needs no memory."""
    frames = jax.ShapeDtypeStruct((1, vision.resolution, vision.resolution, 3), jnp.float32)
    towers = {"vision": _init_shapes(ClipVision(vision), frames), "logit_scale": jax.ShapeDtypeStruct((), jnp.float32)}
    if text is not None:
        towers["text"] = _init_shapes(ClipText(text), jax.ShapeDtypeStruct((1, text.context_length), jnp.int32))
    return {path: leaf.shape for path, leaf in table.flatten(towers).items()}


def _init_shapes(module: ClipVision | ClipText, example: jax.ShapeDtypeStruct) -> dict:
    return jax.eval_shape(module.init, jax.random.key(0), example)["params"]


def _read(
    found: _Found, rows: table.Table, vision: VisionConfig, text: TextConfig | None, resolution: int, place: Place
) -> ClipModel:
    resolution = resolution or vision.resolution
    if resolution % vision.patch_size:
        raise UserError(f"resolution {resolution} is not a multiple of {vision.patch_size}, the patch of {found.name}")
    parts = [
        "vision",
        *(["text"] if text else []),
        *(["logit_scale"] if text or "logit_scale" in found.tensors else []),
    ]
    rows = clip_formats.only(rows, parts)
    shapes = {path: shape for path, shape in param_shapes(vision, text).items() if path.split("/")[0] in parts}
    table.check(rows, shapes, found.shapes, found.source, clip_formats.buffers(found.tensors))
    digests, leaves = {}, {}
    for path, value in table.to_ours(rows, lambda name: np.asarray(found.tensors[name], np.float32), shapes):
        digests[path] = _digest(path, value)
        if path == "vision/positions":
            value = resize_positions(value, resolution // vision.patch_size)
        leaves[path] = place(path, value)
    if "logit_scale" not in leaves:
        warn(f"{found.source} has no text tower and no logit_scale: the scale of its logits is taken as 100")
        leaves["logit_scale"] = place("logit_scale", _LOG_SCALE_LIMIT)
    fingerprint = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
    vision = dataclasses.replace(vision, resolution=resolution)
    return ClipModel(vision, text, table.unflatten(leaves), found.tokenizer, found.name, fingerprint)


def _digest(path: str, value: np.ndarray) -> str:
    digest = hashlib.sha256(f"{path} {value.shape} ".encode())
    digest.update(np.ascontiguousarray(value))
    return digest.hexdigest()


def _to_theirs(rows: table.Table, clip: ClipModel) -> dict[str, np.ndarray]:
    leaves = {path: np.asarray(leaf) for path, leaf in table.flatten(clip.params).items()}
    return dict(table.to_theirs(clip_formats.only(rows, list(clip.params)), leaves))
