"""Perception Encoder Core, from open_clip or from the published files."""

import dataclasses
from typing import ClassVar

import numpy as np

from dist_jax.errors import UserError
from dist_jax.models.backbones.pe import PeBackbone
from dist_jax.models.backbones.pe_vision import POOL_HEADS, PeVisionConfig
from dist_jax.models.backbones.text_tower import TextConfig
from dist_jax.models.backbones.vit import VitBackbone
from dist_jax.weights import clip_formats, pe_formats
from dist_jax.weights.backbone_files import (
    OPEN_CLIP_CONFIG,
    OpenedWeights,
    UnsupportedBackboneError,
    check_normalization,
    read_json,
)
from dist_jax.weights.backbone_model import Architecture
from dist_jax.weights.checkpoint_files import Tensor
from dist_jax.weights.clip_configs import check_heads
from dist_jax.weights.clip_texts import ClipTextModel
from dist_jax.weights.dist_official import current_name
from dist_jax.weights.openai_sizes import ClipSettings
from dist_jax.weights.pe_formats import CLASS_TOKEN
from dist_jax.weights.table import Shapes, Table, infer_size

# Width of a published image tower -> heads (timm: vit_pe_core_*). The heads of the text towers have the width 64.
_IMAGE_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1536: 16}
_TEXT_HEAD_WIDTH = 64
# Tables, and tensors by which their files are recognised.
_FORMATS = (
    (pe_formats.OPEN_CLIP, {"visual.trunk.norm_pre.weight", "visual.trunk.attn_pool.latent"}),
    (pe_formats.META, {"visual.attn_pool.probe"}),
)
_OTHER_PE = ("vit_pe_lang_", "vit_pe_spatial_")  # timm's names


@dataclasses.dataclass(frozen=True)
class PeModel(ClipTextModel):
    """A loaded Perception Encoder Core."""

    kind: ClassVar[str] = "pe"
    supports: ClassVar[str] = "Perception Encoder Core (files of open_clip or facebook/PE-Core-*)"
    backbone_class: ClassVar[type[VitBackbone]] = PeBackbone

    @classmethod
    def recognizes(cls, opened: OpenedWeights) -> bool:
        """See `BackboneModel.recognizes`. PE-Lang and PE-Spatial are recognised, so that `architecture` names them."""
        return _find_format(opened) is not None or _is_another_pe(opened)

    @classmethod
    def architecture(cls, opened: OpenedWeights, settings: ClipSettings) -> Architecture:
        """See `BackboneModel.architecture`."""
        rows = _find_format(opened)
        if rows is None:
            raise UnsupportedBackboneError(
                f"{opened.source}: PE-Lang and PE-Spatial are not supported: they have neither a text tower nor a "
                "pooling head; use PE-Core"
            )
        check_normalization(opened.directory, PeBackbone.mean, PeBackbone.std)
        opened = _with_current_names(opened, rows)
        rows = tuple(row for row in rows if row.paths != (CLASS_TOKEN,) or row.name in opened.tensors)
        vision, text = sizes(rows, opened.shapes, settings, opened.source)
        settings.check(vision, text, opened.source)
        return Architecture(opened, rows, vision, text, clip_formats.buffers(opened.tensors))


def sizes(rows: Table, shapes: Shapes, settings: ClipSettings, source: str) -> tuple[PeVisionConfig, TextConfig | None]:
    """Sizes of the towers from the shapes of their tensors.

    The numbers of heads are those of the published models of the same width, or those of the settings.

    Args:
        rows: of the format, without the class token if the file has none.
        shapes: by the names of the format.
        settings: of the user.
        source: name of the file in error messages.

    Returns:
        The sizes. A size is 1 if no tensor contains it; `table.check` then reports the missing tensors.

    Raises:
        UserError: no square grid of patches, or numbers of heads that are unknown or impossible.
    """
    names = {path: row.name for row in rows for path in row.paths}

    def size(path: str, axis: int) -> int:
        return infer_size(shapes, (names[path].format(0), axis)) or 1

    def num_layers(tower: str) -> int:
        return max(1, sum(names[f"{tower}/blocks/ln_1/scale"].format(layer) in shapes for layer in range(len(shapes))))

    class_token, patch_size = CLASS_TOKEN in names, size("vision/patch_embedding/kernel", -1)
    num_patches = size("vision/positions", -2) - class_token
    grid = round(num_patches**0.5)
    if grid**2 != num_patches:
        raise UserError(f"{source}: {names['vision/positions']} has {num_patches} patches, must be a square number")
    has_text = clip_formats.has_text(rows, shapes)
    settings.check_towers(["image", "text"] if has_text else ["image"], source)
    width, text_width = size("vision/ln_post/scale", 0), size("text/ln_final/scale", 0)
    heads = settings.num_heads or (_image_heads(width, source), max(1, text_width // _TEXT_HEAD_WIDTH))
    check_heads(width, heads[0], source)
    if width % (4 * heads[0]) or width % POOL_HEADS:
        raise UserError(
            f"{source}: width {width} with {heads[0]} heads: the width of a head must be a multiple of 4, and that of "
            f"the tower a multiple of {POOL_HEADS}"
        )
    vision = PeVisionConfig(
        width=width,
        num_layers=num_layers("vision"),
        num_heads=heads[0],
        patch_size=patch_size,
        resolution=max(grid, 1) * patch_size,
        embed_dim=size("vision/proj/bias", 0),
        mlp_dim=size("vision/blocks/mlp/fc/bias", 0),
        class_token=class_token,
    )
    if not has_text:
        return vision, None
    check_heads(text_width, heads[-1], source)
    return vision, TextConfig(
        width=text_width,
        num_layers=num_layers("text"),
        num_heads=heads[-1],
        vocab_size=size("text/token_embedding", 0),
        context_length=size("text/positions", 0),
        embed_dim=vision.embed_dim,
        activation=vision.activation,
        mlp_dim=size("text/blocks/mlp/fc/bias", 0),
    )


def _image_heads(width: int, source: str) -> int:
    if width not in _IMAGE_HEADS:
        raise UserError(
            f"{source}: the number of heads of its image tower (width {width}) is unknown; set --num-heads IMAGE,TEXT "
            "(python -m dist_jax.convert; in a configuration backbone.num_heads)"
        )
    return _IMAGE_HEADS[width]


def _find_format(opened: OpenedWeights) -> Table | None:
    """The table of the file's names; None: the file is not a PE-Core."""
    names = set(map(current_name, opened.tensors))
    timm_name = _timm_name(opened)
    if timm_name and any(name.startswith("visual.trunk.") for name in names):
        return pe_formats.OPEN_CLIP if timm_name.startswith("vit_pe_core_") else None
    return next((rows for rows, markers in _FORMATS if markers <= names), None)


def _is_another_pe(opened: OpenedWeights) -> bool:
    """Whether the files are PE-Lang or PE-Spatial, of timm or of facebook/PE-*."""
    architecture = _timm_name(opened) or str(opened.config.get("architecture", ""))
    names = set(map(current_name, opened.tensors))
    has_layer_scale = any(name.endswith("transformer.resblocks.0.ls_1.gamma") for name in names)
    return architecture.startswith(_OTHER_PE) or (has_layer_scale and not names & {"proj", "visual.proj"})


def _timm_name(opened: OpenedWeights) -> str:
    """timm's name of the image tower in open_clip's config; empty if there is none."""
    file = opened.directory / OPEN_CLIP_CONFIG
    config = read_json(file) if file.is_file() else {}
    for part in ("model_cfg", "vision_cfg"):
        config = config.get(part) or {}
        if not isinstance(config, dict):
            raise UserError(f"{file}: {part} is {config!r}, must be a JSON object")
    return str(config.get("timm_model_name") or "")


def _with_current_names(opened: OpenedWeights, rows: Table) -> OpenedWeights:
    """The tensors with the names of `rows`: without prefixes of trainings, and with a bias of the projection."""
    tensors = {current_name(name): tensor for name, tensor in opened.tensors.items()}
    if rows is pe_formats.META and "visual.proj" in tensors:
        bias = np.zeros(tensors["visual.proj"].shape[-1], np.float32)
        tensors[pe_formats.PROJ_BIAS] = Tensor(bias.shape, bias.dtype, bias.view)
    return dataclasses.replace(opened, tensors=tensors)
