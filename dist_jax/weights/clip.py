"""Loads CLIP models with a ViT image tower from all published formats."""

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

from dist_jax.errors import UserError, warn
from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.backbones.clip_text import ClipText, TextConfig
from dist_jax.models.backbones.clip_vision import VisionConfig
from dist_jax.text import tokenizer
from dist_jax.text.text_features import check_tokens, encode_tokens
from dist_jax.weights import clip_configs, clip_files, clip_formats, clip_sizes, dist_official, openai_sizes, table
from dist_jax.weights.checkpoint_files import Tensor, open_sharded, open_tensors, write_safetensors
from dist_jax.weights.openai_sizes import ClipSettings
from dist_jax.weights.positions import resize_positions
from dist_jax.weights.table import Place, keep

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

Texts = Sequence[str] | np.ndarray | jax.Array  # strings, or their token ids int [K, any length]

# The upper limit in CLIP's training; trained models reach it.
_DEFAULT_LOGIT_SCALE = np.log(np.full((), 100, np.float32))
_NO_SETTINGS = ClipSettings()


@dataclasses.dataclass(frozen=True)
class ClipModel:
    """A loaded CLIP: sizes, parameters and origin."""

    vision: VisionConfig
    text: TextConfig | None  # None: no text tower
    params: dict  # {"vision": of ClipVision, "text": of ClipText (optional), "logit_scale": float32 []}
    tokenizer: str | None  # directory of its tokenizer files
    name: str  # the `weights` argument of `load`
    # Hash of the float32 values before casts and interpolation: equal for the same weights in all formats.
    fingerprint: str

    def backbone(self, dtype: jnp.dtype = jnp.float32, quantize: str = "") -> ClipBackbone:
        """The backbone for the model; `dtype` of the image tower's arithmetic, `quantize` as its kernels are."""
        return ClipBackbone(self.vision, self.text, dtype, quantize)

    def encode_texts(self, texts: Texts) -> jax.Array:
        """Text embeddings: strings, or token ids int [K, any length] -> float32 [K, E], unit length.

        No prompt is added, as in training. A text longer than the context is truncated and keeps its end token.

        Raises:
            UserError: the model has no text tower; strings without a tokenizer, or with the tokenizer of another model;
              invalid texts or token ids.
        """
        if self.text is None:
            raise UserError(f"{self.name} has no text tower, so it cannot encode texts; use a complete CLIP")
        if hasattr(texts, "dtype"):
            return self._encode_tokens(np.asarray(texts))
        if self.tokenizer is None:
            raise UserError(
                f"{self.name} has no tokenizer files, so it accepts only token ids (int [K, context]); copy the "
                "tokenizer files of the CLIP model to the directory of its weights, or use python -m dist_jax.convert "
                "--tokenizer DIR"
            )
        if not len(texts):
            raise UserError("no texts are given; pass at least one")
        tokens = tokenizer.encode(self._loaded_tokenizer, texts, self.text.context_length)
        mismatch = f"the tokenizer of {self.tokenizer} does not belong to the text tower of {self.name}"
        end_tokens = tokens.max(axis=1) if self.text.end_token is None else np.full(len(tokens), self.text.end_token)
        if (end_tokens != self._loaded_tokenizer.eos_token_id).any():
            actual = f"token {self._loaded_tokenizer.eos_token_id}"
            expected = "the highest token id" if self.text.end_token is None else f"token {self.text.end_token}"
            raise UserError(f"{mismatch}: its texts end with {actual}, the text tower expects {expected}")
        try:
            return self._encode_tokens(tokens)
        except UserError as error:
            raise UserError(f"{mismatch}: {error}") from error

    def _encode_tokens(self, tokens: np.ndarray) -> jax.Array:
        params = {"text": self.params["text"]}
        return encode_tokens(self.backbone(), params, check_tokens(tokens, self.text))

    @cached_property
    def _loaded_tokenizer(self) -> "CLIPTokenizer":
        return tokenizer.load(self.tokenizer)


def load(weights: str, *, resolution: int = 0, place: Place = keep, settings: ClipSettings = _NO_SETTINGS) -> ClipModel:
    """Loads a CLIP with a ViT image tower.

    Args:
        weights: Hugging Face hub id (owner/name); a directory with files of Hugging Face or open_clip; or a file:
          OpenAI's .pt, open_clip's .bin or .safetensors, a published DiST .pyth (it contains CLIP).
        resolution: height and width of the input frames in pixels; 0: the resolution of its training. The position
          embeddings are interpolated for another resolution.
        place: function of each parameter's path ("vision/...", "text/...", "logit_scale") and value. Parameters are
          read one at a time. If `place` moves them to a device, host memory for two copies of the largest is enough.
        settings: activation and numbers of heads, for a file that does not contain them.

    Raises:
        UserError: no such weights, another architecture, tensors that are missing, unknown or of wrong shape, or a
          setting that is missing or contradicts the files.
    """
    return _read(*_open(weights, settings), resolution, place)


def vision_sizes(weights: str, settings: ClipSettings = _NO_SETTINGS) -> VisionConfig:
    """Sizes of the image tower, from a table for well-known hub ids, otherwise from the files. Reads no parameters.

    Arguments and errors as in `load`.
    """
    if weights in clip_sizes.VISION:
        return clip_sizes.VISION[weights]
    _, _, vision, _ = _open(weights, settings)
    return vision


def from_openai(tensors: Mapping[str, Tensor], source: str, place: Place = keep) -> ClipModel:
    """A CLIP of OpenAI from its tensors, as in a published DiST file: QuickGELU, heads of width 64.

    `source` is the name in error messages and in `ClipModel.name`. See `load` for `place` and the errors.
    """
    opened = _OpenedWeights(tensors, source, source, None)
    _check_openai(opened)
    return _read(opened, *_openai(opened, openai_sizes.openai_architecture(opened.shapes)), 0, place)


def to_openai(clip_model: ClipModel) -> dict[str, np.ndarray]:
    """The tensors with OpenAI's names, in the dtype of the parameters.

    Raises:
        UserError: sizes that a file with these names cannot contain.
    """
    conflicts = openai_sizes.openai_conflicts(clip_model.vision, clip_model.text)
    if conflicts:
        raise UserError(f"the published PyTorch format does not support {clip_model.name}: {'; '.join(conflicts)}")
    return _to_theirs(clip_formats.OPENAI, clip_model.params)


def save_huggingface(clip_model: ClipModel, directory: Path) -> None:
    """Writes config.json and model.safetensors (float32) for transformers' CLIPModel, without tokenizer files."""
    directory.mkdir(parents=True, exist_ok=True)
    config = clip_configs.huggingface_config(clip_model.vision, clip_model.text)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    # transformers' image tower without text tower has no logit_scale.
    params = clip_model.params if clip_model.text else {"vision": clip_model.params["vision"]}
    tensors = {
        name: np.array(value, np.float32, order="C")
        for name, value in _to_theirs(clip_formats.HUGGINGFACE, params).items()
    }
    write_safetensors(directory / "model.safetensors", tensors, metadata={"format": "pt"})


def param_shapes(vision: VisionConfig, text: TextConfig | None) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter, by path; allocates no arrays."""
    towers = {"vision": clip_sizes.vision_shapes(vision), "logit_scale": jax.ShapeDtypeStruct((), jnp.float32)}
    if text is not None:
        tokens = jax.ShapeDtypeStruct((1, text.context_length), jnp.int32)
        towers["text"] = jax.eval_shape(ClipText(text).init, jax.random.key(0), tokens)["params"]
    return {path: leaf.shape for path, leaf in table.flatten(towers).items()}


@dataclasses.dataclass(frozen=True)
class _OpenedWeights:
    tensors: Mapping[str, Tensor]
    source: str  # file name in messages
    name: str
    tokenizer: str | None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}


def _open(weights: str, settings: ClipSettings) -> tuple[_OpenedWeights, table.Table, VisionConfig, TextConfig | None]:
    """Opens the files and finds the sizes. See `load`."""
    file = clip_files.find(weights)
    tensors = open_sharded(file) if file.name.endswith(".index.json") else open_tensors(file)
    opened = _OpenedWeights(tensors, str(file), weights, tokenizer.find_next_to(file))
    if any(name.startswith(("vision_model.", "text_model.")) for name in tensors):
        clip_files.check_normalization(file.parent)
        rows, vision, text = _huggingface(opened, file.parent / clip_files.CONFIG)
        settings.check(vision, text, opened.source)
        return opened, rows, vision, text
    network, names = dist_official.split(list(tensors), str(file))
    opened = dataclasses.replace(opened, tensors={current: tensors[name] for current, name in names.items()})
    _check_openai(opened)
    # OpenAI's archives (they contain input_resolution) and DiST checkpoints hold OpenAI's models. Config files in the
    # same directory do not belong to them.
    if network or "input_resolution" in tensors:
        architecture = openai_sizes.openai_architecture(opened.shapes)
    else:
        clip_files.check_normalization(file.parent)
        architecture = _open_clip(opened, file.parent / clip_files.OPEN_CLIP_CONFIG, settings)
    rows, vision, text = _openai(opened, architecture)
    settings.check(vision, text, opened.source)
    return opened, rows, vision, text


def _huggingface(opened: _OpenedWeights, config: Path) -> tuple[table.Table, VisionConfig, TextConfig | None]:
    if not config.is_file():
        raise UserError(f"{opened.source}: config.json is missing in its directory; copy it from the model")
    rows = clip_formats.HUGGINGFACE
    has_text = clip_formats.has_text(rows, opened.shapes)
    return rows, *clip_configs.huggingface_sizes(clip_files.read_json(config), has_text, str(config))


def _check_openai(opened: _OpenedWeights) -> None:
    """Raises UserError if the tensors are not those of a CLIP with a ViT and OpenAI's names."""
    shapes, source = opened.shapes, opened.source
    if any(name.startswith(("visual.layer1.", "visual.attnpool.")) for name in shapes):
        raise UserError(f"{source}: a CLIP with a ResNet image tower is not supported; use one with a ViT")
    if not any(name.startswith("visual.") for name in shapes):
        raise UserError(f"{source}: not a CLIP; its tensors are {', '.join(sorted(shapes)[:5])}, ...")


def _open_clip(opened: _OpenedWeights, config: Path, settings: ClipSettings) -> openai_sizes.Architecture:
    """The architecture of a file without information about its origin, from open_clip's config or from the user."""
    if not config.is_file():
        return openai_sizes.stated_architecture(settings, opened.shapes, opened.source)
    cfg = clip_files.read_json(config).get("model_cfg")
    if not isinstance(cfg, dict):
        raise UserError(f"{config}: model_cfg is missing; copy the file from the model")
    return openai_sizes.open_clip_architecture(cfg, opened.shapes, str(config))


def _openai(
    opened: _OpenedWeights, architecture: openai_sizes.Architecture
) -> tuple[table.Table, VisionConfig, TextConfig | None]:
    rows, shapes = clip_formats.OPENAI, opened.shapes
    has_text = clip_formats.has_text(rows, shapes)
    return rows, *openai_sizes.openai_sizes(shapes, has_text, opened.source, architecture)


def _read(
    opened: _OpenedWeights,
    rows: table.Table,
    vision: VisionConfig,
    text: TextConfig | None,
    resolution: int,
    place: Place,
) -> ClipModel:
    resolution = resolution or vision.resolution
    if resolution % vision.patch_size:
        raise UserError(
            f"resolution {resolution}: must be a multiple of {vision.patch_size}, the patch size of {opened.name}"
        )
    parts = ["vision"] + ["text"] * (text is not None)
    parts += ["logit_scale"] * (text is not None or "logit_scale" in opened.tensors)
    rows = clip_formats.only(rows, parts)
    shapes = {path: shape for path, shape in param_shapes(vision, text).items() if path.split("/")[0] in parts}
    table.check(rows, shapes, opened.shapes, opened.source, clip_formats.buffers(opened.tensors))
    digests, leaves = {}, {}
    for path, value in table.to_ours(rows, lambda name: np.asarray(opened.tensors[name], np.float32), shapes):
        digests[path] = _digest(path, value)
        if path == "vision/positions":
            value = resize_positions(value, resolution // vision.patch_size)
        leaves[path] = place(path, value)
    if "logit_scale" not in leaves:
        warn(f"{opened.source} has no text tower and no logit_scale; using a logit scale of 100")
        leaves["logit_scale"] = place("logit_scale", _DEFAULT_LOGIT_SCALE)
    fingerprint = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
    vision = dataclasses.replace(vision, resolution=resolution)
    return ClipModel(vision, text, table.unflatten(leaves), opened.tokenizer, opened.name, fingerprint)


def _digest(path: str, value: np.ndarray) -> str:
    digest = hashlib.sha256(f"{path} {value.shape} ".encode())
    digest.update(np.ascontiguousarray(value))
    return digest.hexdigest()


def _to_theirs(rows: table.Table, params: dict) -> dict[str, np.ndarray]:
    leaves = {path: np.asarray(leaf) for path, leaf in table.flatten(params).items()}
    return dict(table.to_theirs(clip_formats.only(rows, list(params)), leaves))
