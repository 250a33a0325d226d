"""CLIP models with a ViT image tower, in all published formats."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from dist_jax.errors import UserError
from dist_jax.models.backbones.clip import CLIP_MEAN, CLIP_STD, ClipBackbone
from dist_jax.models.backbones.vit import VitBackbone
from dist_jax.weights import (
    backbone_files,
    clip_configs,
    clip_formats,
    dist_official,
    huggingface_files,
    openai_sizes,
    table,
)
from dist_jax.weights.backbone_files import OpenedWeights, UnsupportedBackboneError
from dist_jax.weights.backbone_model import Architecture, BackboneModel
from dist_jax.weights.checkpoint_files import Tensor
from dist_jax.weights.clip_texts import ClipTextModel
from dist_jax.weights.openai_sizes import ClipSettings
from dist_jax.weights.table import Place, keep

_NO_SETTINGS = ClipSettings()
# First part of a tensor's name -> the model that has such tensors; CLIP's architecture does not.
_OTHER_MODELS = {
    "visual.layer1.": "a CLIP with a ResNet image tower",
    "visual.attnpool.": "a CLIP with a ResNet image tower",
    "visual.trunk.": "an image tower of timm (EVA, ConvNeXt, SigLIP and others)",
    "text_decoder.": "CoCa",
    "text.": "a text tower of another architecture",
}


@dataclasses.dataclass(frozen=True)
class ClipModel(ClipTextModel):
    """A loaded CLIP."""

    kind: ClassVar[str] = "clip"
    supports: ClassVar[str] = "CLIP with a ViT image tower (files of Hugging Face, open_clip or OpenAI)"
    backbone_class: ClassVar[type[VitBackbone]] = ClipBackbone

    @classmethod
    def recognizes(cls, opened: OpenedWeights) -> bool:
        """See `BackboneModel.recognizes`."""
        return opened.config.get("model_type") in clip_configs.HUGGINGFACE_MODELS

    @classmethod
    def architecture(cls, opened: OpenedWeights, settings: ClipSettings) -> Architecture:
        """See `BackboneModel.architecture`."""
        if any(name.startswith(("vision_model.", "text_model.")) for name in opened.tensors):
            found = _huggingface(opened)
        else:
            found = _openai_names(opened, settings)
        settings.check(found.vision, found.text, opened.source)
        return found


def load(weights: str, *, resolution: int = 0, place: Place = keep, settings: ClipSettings = _NO_SETTINGS) -> ClipModel:
    """Loads a CLIP. Arguments and errors as in `weights.backbones.load`, which also loads other backbones."""
    return ClipModel.read(ClipModel.architecture(backbone_files.open_weights(weights), settings), resolution, place)


def from_openai(tensors: Mapping[str, Tensor], source: str, place: Place = keep) -> ClipModel:
    """A CLIP of OpenAI from its tensors, as in a published DiST file: QuickGELU, heads of width 64.

    `source` is the name in error messages and in `ClipModel.name`. See `load` for `place` and the errors.
    """
    opened = OpenedWeights(tensors, source, source)
    _check_openai(opened)
    return ClipModel.read(_openai(opened, openai_sizes.openai_architecture(opened.shapes)), 0, place)


def to_openai(clip_model: BackboneModel) -> dict[str, np.ndarray]:
    """The tensors with OpenAI's names, in the dtype of the parameters.

    Raises:
        UserError: not a CLIP, or sizes that a file with these names cannot contain.
    """
    conflicts = [f"it is not a CLIP, but a backbone of the kind {clip_model.kind}"]
    if isinstance(clip_model, ClipModel):
        conflicts = openai_sizes.openai_conflicts(clip_model.vision, clip_model.text)
    if conflicts:
        raise UserError(f"the published PyTorch format does not support {clip_model.name}: {'; '.join(conflicts)}")
    return table.tree_to_theirs(clip_formats.OPENAI, clip_model.params)


def save_huggingface(clip_model: ClipModel, directory: Path) -> None:
    """Writes config.json and model.safetensors (float32) for transformers' CLIPModel, without tokenizer files."""
    # transformers' image tower without text tower has no logit_scale.
    params = clip_model.params if clip_model.text else {"vision": clip_model.params["vision"]}
    config = clip_configs.huggingface_config(clip_model.vision, clip_model.text)
    huggingface_files.write(directory, config, table.tree_to_theirs(clip_formats.HUGGINGFACE, params))


def _huggingface(opened: OpenedWeights) -> Architecture:
    config = opened.directory / backbone_files.CONFIG
    if not config.is_file():
        raise UserError(f"{opened.source}: config.json is missing in its directory; copy it from the model")
    rows = clip_formats.HUGGINGFACE
    has_text = clip_formats.has_text(rows, opened.shapes)
    vision, text = clip_configs.huggingface_sizes(opened.config, has_text, str(config))
    backbone_files.check_normalization(opened.directory, CLIP_MEAN, CLIP_STD)
    return Architecture(opened, rows, vision, text, clip_formats.buffers(opened.tensors))


def _openai_names(opened: OpenedWeights, settings: ClipSettings) -> Architecture:
    """The architecture of files with OpenAI's names, also inside a DiST checkpoint."""
    tensors = opened.tensors
    network, names = dist_official.split(list(tensors), opened.source)
    opened = dataclasses.replace(opened, tensors={current: tensors[name] for current, name in names.items()})
    _check_openai(opened)
    # OpenAI's archives (they contain input_resolution) and DiST checkpoints hold OpenAI's models. Config files in the
    # same directory do not belong to them.
    if network or "input_resolution" in tensors:
        return _openai(opened, openai_sizes.openai_architecture(opened.shapes))
    backbone_files.check_normalization(opened.directory, CLIP_MEAN, CLIP_STD)
    return _openai(opened, _open_clip(opened, settings))


def _check_openai(opened: OpenedWeights) -> None:
    """Raises UserError if the tensors are not those of a CLIP with a ViT and OpenAI's names."""
    source, names = opened.source, sorted(opened.tensors)
    for prefix, model in _OTHER_MODELS.items():
        if any(name.startswith(prefix) for name in names):
            raise UnsupportedBackboneError(f"{source}: {model} is not supported; use a CLIP with a ViT")
    if not any(name.startswith("visual.") for name in names):
        raise UnsupportedBackboneError(f"{source}: not a CLIP; its tensors are {', '.join(names[:5])}, ...")


def _open_clip(opened: OpenedWeights, settings: ClipSettings) -> openai_sizes.Architecture:
    """The architecture of a file without information about its origin, from open_clip's config or from the user."""
    config = opened.directory / backbone_files.OPEN_CLIP_CONFIG
    if not config.is_file():
        return openai_sizes.stated_architecture(settings, opened.shapes, opened.source)
    cfg = backbone_files.read_json(config).get("model_cfg")
    if not isinstance(cfg, dict):
        raise UserError(f"{config}: model_cfg is missing; copy the file from the model")
    return openai_sizes.open_clip_architecture(cfg, opened.shapes, str(config))


def _openai(opened: OpenedWeights, architecture: openai_sizes.Architecture) -> Architecture:
    rows, shapes = clip_formats.OPENAI, opened.shapes
    has_text = clip_formats.has_text(rows, shapes)
    vision, text = openai_sizes.openai_sizes(shapes, has_text, opened.source, architecture)
    return Architecture(opened, rows, vision, text, clip_formats.buffers(opened.tensors))
