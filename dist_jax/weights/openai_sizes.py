"""Sizes of CLIP's towers for files with OpenAI's names: OpenAI's, open_clip's and published DiST files.

The tensors contain all sizes except the numbers of attention heads. The activation is not in the tensors either. Both
come from open_clip_config.json, from the origin of the file (OpenAI), or from the user.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dist_jax.errors import UserError, warn
from dist_jax.models.backbones.text_tower import TextConfig
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.weights.backbone_files import UnsupportedBackboneError
from dist_jax.weights.clip_configs import check_heads, end_token
from dist_jax.weights.table import Shapes, infer_size

ACTIVATIONS = ("quick_gelu", "gelu")  # of published models with these names
_HEAD_WIDTH = 64  # of OpenAI's models, and the default of open_clip
# Width of a published tower -> width of its heads (open_clip, model_configs/: ViT-B, B-plus, L, H, g, bigG, e).
_PUBLISHED_HEADS = {
    "image": {768: 64, 896: 64, 1024: 64, 1280: 80, 1408: 88, 1664: 104, 1792: 112},
    "text": {512: 64, 640: 64, 768: 64, 1024: 64, 1280: 64},
}


@dataclasses.dataclass(frozen=True)
class ClipSettings:
    """Settings of a CLIP that its files may not contain, as set by the user. Empty: not set."""

    activation: str = ""  # quick_gelu | gelu
    num_heads: tuple[int, ...] = ()  # of the image tower and of the text tower

    def __post_init__(self) -> None:
        if len(self.num_heads) > 2 or any(number < 1 for number in self.num_heads):
            raise UserError(
                f"num_heads {_numbers(self.num_heads)}: must be one number above 0 per tower, IMAGE,TEXT, e.g. 16,20"
            )

    @classmethod
    def from_config(cls, backbone: Mapping[str, Any]) -> "ClipSettings":
        """The settings in config.backbone; they are missing in run.json of dist_jax 0.2."""
        return cls(backbone.get("activation", ""), tuple(backbone.get("num_heads", ())))

    def check_towers(self, towers: Collection[str], source: str) -> None:
        """Raises UserError if numbers of heads are set, but not one for each tower that `source` contains."""
        if self.num_heads and len(self.num_heads) != len(towers):
            raise UserError(
                f"{source}: num_heads {_numbers(self.num_heads)} is set, but the file has {' and '.join(towers)} "
                f"tower{'s' * (len(towers) > 1)}; set one number per tower"
            )

    def check(self, vision: VisionConfig, text: TextConfig | None, source: str) -> None:
        """Raises UserError if a setting contradicts the sizes that `source` contains."""
        towers: list[VisionConfig | TextConfig] = [vision] if text is None else [vision, text]
        activations = [tower.activation for tower in towers]
        num_heads = tuple(tower.num_heads for tower in towers)
        if self.activation and set(activations) != {self.activation}:
            raise UserError(
                f"{source}: activation {self.activation} is set, but the model has {' and '.join(activations)}; remove "
                "this setting"
            )
        if self.num_heads and self.num_heads != num_heads:
            raise UserError(
                f"{source}: num_heads {_numbers(self.num_heads)} is set, but the model has {_numbers(num_heads)}; "
                "remove this setting"
            )


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What the tensors do not contain."""

    activation: str
    vision_heads: int
    text_heads: int  # ignored without a text tower


def openai_architecture(shapes: Shapes) -> Architecture:
    """The architecture of OpenAI's models: QuickGELU, heads of width 64. `shapes` by OpenAI's names."""
    vision_width, text_width = _widths(shapes)
    return Architecture("quick_gelu", max(1, vision_width // _HEAD_WIDTH), max(1, text_width // _HEAD_WIDTH))


def open_clip_architecture(cfg: Mapping, shapes: Shapes, source: str) -> Architecture:
    """The architecture in `model_cfg` of open_clip_config.json, with the defaults of open_clip.

    Args:
        cfg: the settings.
        shapes: of the tensors, by OpenAI's names.
        source: name of the config file in error messages.

    Raises:
        UserError: another architecture than OpenAI's, or sizes that differ from those of the tensors.
    """
    check_open_clip(cfg, source)
    v, t = cfg.get("vision_cfg") or {}, cfg.get("text_cfg") or {}
    vision_width, text_width = _widths(shapes)
    different = _differences(v, "vision_cfg", vision_width, shapes, _VISION)
    if text_width:
        different += _differences(t, "text_cfg", text_width, shapes, _TEXT)
    if different:
        raise UserError(f"{source} belongs to a different model: {'; '.join(different)}; copy the file of this model")
    activation = "quick_gelu" if cfg.get("quick_gelu") else "gelu"
    return Architecture(activation, max(1, vision_width // v.get("head_width", 64)), t.get("heads", 8))


def _differences(cfg: Mapping, name: str, width: int, shapes: Shapes, blocks: str) -> list[str]:
    """Sizes in the open_clip config of a tower that differ from those of its tensors."""
    num_layers, mlp_dim = _num_layers(shapes, blocks), _mlp_dim(shapes, blocks)
    sizes = {
        "width": (cfg.get("width", width), width),
        "layers": (cfg.get("layers", num_layers), num_layers),
        "mlp_ratio * width": (int(width * cfg.get("mlp_ratio", 4.0)), mlp_dim or 4 * width),
    }
    return [
        f"{name}.{key} is {ours}, the tensors have {theirs}" for key, (ours, theirs) in sizes.items() if ours != theirs
    ]


def stated_architecture(settings: ClipSettings, shapes: Shapes, source: str) -> Architecture:
    """The architecture of a file without config, from the user's settings.

    The activation may also be in the file's name: open_clip's names of models with QuickGELU end with -quickgelu.
    Without settings, the numbers of heads are those of the published towers of this width.

    Raises:
        UserError: the activation or a number of heads is unknown. The message names the settings.
    """
    activation = settings.activation or ("quick_gelu" if "quickgelu" in Path(source).name.lower() else "")
    vision_width, text_width = _widths(shapes)
    widths = {"image": vision_width} | ({"text": text_width} if text_width else {})
    settings.check_towers(widths, source)
    heads = dict(zip(widths, settings.num_heads, strict=True)) if settings.num_heads else {}
    unknown = [] if activation else [("whether it has GELU or QuickGELU", "activation quick_gelu|gelu")]
    for tower, width in widths.items():
        heads[tower] = heads.get(tower) or _published_heads(tower, width)
        if not heads[tower]:
            unknown.append((f"the number of heads of its {tower} tower (width {width})", "num-heads IMAGE,TEXT"))
    if unknown:
        properties = ", ".join(name for name, _ in unknown)
        flags = " and ".join(dict.fromkeys(f"--{flag}" for _, flag in unknown))
        raise UserError(
            f"{source}: the file does not contain {properties}, and open_clip_config.json is missing in its "
            f"directory; copy it from the model, or set {flags} (python -m dist_jax.convert; in a configuration "
            "backbone.activation, backbone.num_heads); open_clip's names of models with QuickGELU end with -quickgelu"
        )
    for tower, width in widths.items():
        if not settings.num_heads and width not in _PUBLISHED_HEADS[tower]:
            warn(
                f"{source}: assuming {heads[tower]} heads of width {_HEAD_WIDTH} in the {tower} tower (width {width}); "
                "set --num-heads if the model has another number"
            )
    return Architecture(activation, heads["image"], heads.get("text", 1))


def _published_heads(tower: str, width: int) -> int:
    """Number of heads of the published towers of this width; 0 if heads of width 64 are impossible."""
    head_width = _PUBLISHED_HEADS[tower].get(width, _HEAD_WIDTH)
    return width // head_width if width % head_width == 0 else 0


def openai_sizes(
    shapes: Shapes, has_text: bool, source: str, architecture: Architecture
) -> tuple[VisionConfig, TextConfig | None]:
    """Sizes of the towers from the shapes of their tensors.

    Args:
        shapes: by OpenAI's names.
        has_text: whether there is a text tower.
        source: name of the file in error messages.
        architecture: what the tensors do not contain.

    Returns:
        The sizes. A size is 1 if no tensor contains it; `table.check` then reports the missing tensors.
    """
    vision_width, text_width = (max(1, width) for width in _widths(shapes))
    patch_size = _size(shapes, ("visual.conv1.weight", -1))
    num_patches = _size(shapes, ("visual.positional_embedding", 0)) - 1
    embed_dim = _size(shapes, ("visual.proj", 1), ("text_projection", 1))
    grid = round(num_patches**0.5)
    if grid**2 != num_patches:
        raise UserError(f"{source}: visual.positional_embedding has {num_patches} patches, must be a square number")
    check_heads(vision_width, architecture.vision_heads, source)
    vision = VisionConfig(
        width=vision_width,
        num_layers=_num_layers(shapes, _VISION),
        num_heads=architecture.vision_heads,
        patch_size=patch_size,
        resolution=max(grid, 1) * patch_size,
        embed_dim=embed_dim,
        activation=architecture.activation,
        mlp_dim=_mlp_dim(shapes, _VISION),
    )
    if not has_text:
        return vision, None
    check_heads(text_width, architecture.text_heads, source)
    return vision, TextConfig(
        width=text_width,
        num_layers=_num_layers(shapes, _TEXT),
        num_heads=architecture.text_heads,
        vocab_size=_size(shapes, ("token_embedding.weight", 0)),
        context_length=_size(shapes, ("positional_embedding", 0)),
        embed_dim=embed_dim,
        activation=architecture.activation,
        mlp_dim=_mlp_dim(shapes, _TEXT),
    )


def openai_conflicts(vision: VisionConfig, text: TextConfig | None) -> list[str]:
    """Sizes of the towers that a file with OpenAI's names cannot contain, one phrase each."""
    conflicts = []
    for tower, config in (("vision", vision), ("text", text)):
        if config is None:
            continue
        if config.num_heads * _HEAD_WIDTH != config.width:
            conflicts.append(f"{tower} num_heads is {config.num_heads}, must be {config.width // _HEAD_WIDTH}")
        if config.mlp_dim != 4 * config.width:
            conflicts.append(f"{tower} mlp_dim is {config.mlp_dim}, must be {4 * config.width}")
        if config.activation != "quick_gelu":
            conflicts.append(f"{tower} activation is {config.activation}, must be quick_gelu")
    if text is not None and end_token(text) != text.vocab_size - 1:
        conflicts.append(f"text end_token is {text.end_token}, must be the largest id, {text.vocab_size - 1}")
    return conflicts


def check_open_clip(cfg: Mapping, source: str) -> None:
    """Raises UnsupportedBackboneError if an open_clip model has another architecture than OpenAI's models.

    Args:
        cfg: `model_cfg` of open_clip_config.json.
        source: name of the file in the error message.
    """
    vision_keys = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
    text_keys = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
    unsupported = {f"model_cfg.{key}" for key in set(cfg) - {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"}}
    unsupported |= {f"vision_cfg.{key}" for key in set(cfg.get("vision_cfg") or {}) - vision_keys}
    unsupported |= {f"text_cfg.{key}" for key in set(cfg.get("text_cfg") or {}) - text_keys}
    if unsupported:
        settings = ", ".join(sorted(unsupported))
        raise UnsupportedBackboneError(
            f"{source}: unsupported settings {settings}; use a model with OpenAI's architecture"
        )


_VISION, _TEXT = "visual.transformer.resblocks.", "transformer.resblocks."  # prefixes of the blocks' names


def _widths(shapes: Shapes) -> tuple[int, int]:
    """Widths of the image tower and of the text tower; 0 if there is none."""
    vision = infer_size(
        shapes, ("visual.class_embedding", 0), ("visual.ln_pre.weight", 0), ("visual.ln_post.weight", 0)
    )
    text = infer_size(shapes, ("ln_final.weight", 0), ("ln_final.bias", 0), ("token_embedding.weight", 1))
    return vision or 0, text or 0


def _mlp_dim(shapes: Shapes, blocks: str) -> int:
    """Hidden width of the MLPs; 0 (then 4 * width) if no tensor contains it."""
    layers = range(_num_layers(shapes, blocks))
    return infer_size(shapes, *((f"{blocks}{layer}.mlp.c_fc.bias", 0) for layer in layers)) or 0


def _size(shapes: Shapes, *axes: tuple[str, int]) -> int:
    return infer_size(shapes, *axes) or 1


def _num_layers(shapes: Shapes, blocks: str) -> int:
    numbers = [int(match[1]) for name in shapes if (match := re.match(re.escape(blocks) + r"(\d+)\.", name))]
    return 1 + max(numbers, default=0)


def _numbers(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))
