"""Sizes of CLIP's towers: from the config files of Hugging Face and open_clip, or from the shapes of the tensors."""

import re
from collections.abc import Mapping

from dist_jax.errors import UserError
from dist_jax.models.backbones.clip_text import TextConfig
from dist_jax.models.backbones.clip_vision import VisionConfig
from dist_jax.models.layers import ACTIVATIONS
from dist_jax.weights.table import Shapes, infer_size

HUGGINGFACE_MODELS = ("clip", "clip_vision_model")  # model_type in config.json; the second has no text tower

# Hugging Face's config.json may omit settings that have their default value.
_VISION_DEFAULTS = dict(
    hidden_size=768, num_hidden_layers=12, num_attention_heads=12, patch_size=32, image_size=224,
    hidden_act="quick_gelu", layer_norm_eps=1e-5, projection_dim=512,
)  # fmt: skip
_TEXT_DEFAULTS = dict(
    hidden_size=512, num_hidden_layers=12, num_attention_heads=8, vocab_size=49408, max_position_embeddings=77,
    hidden_act="quick_gelu", layer_norm_eps=1e-5, eos_token_id=49407,
)  # fmt: skip


def huggingface_sizes(config: Mapping, has_text: bool, source: str) -> tuple[VisionConfig, TextConfig | None]:
    """Sizes of the towers from a Hugging Face config.json.

    Args:
        config: content of the file; its model_type is one of HUGGINGFACE_MODELS.
        has_text: whether the weights have a text tower.
        source: name of the file in error messages.

    Raises:
        UserError: another architecture.
    """
    if config.get("model_type") not in HUGGINGFACE_MODELS:
        raise UserError(
            f"{source}: model_type is {config.get('model_type')!r}, must be {' or '.join(HUGGINGFACE_MODELS)}"
        )
    vision_only = config["model_type"] == "clip_vision_model"
    v = {**_VISION_DEFAULTS, **(config if vision_only else _tower(config, "vision"))}
    t = {**_TEXT_DEFAULTS, **({} if vision_only else _tower(config, "text"))}
    embed_dim = v["projection_dim"] if vision_only else config.get("projection_dim", 512)
    for tower in (v, t):
        if abs(tower["layer_norm_eps"] - 1e-5) > 1e-9:
            raise UserError(f"{source}: layer_norm_eps is {tower['layer_norm_eps']}, must be 1e-5")
        _check_heads(tower["hidden_size"], tower["num_attention_heads"], source)
    vision = VisionConfig(
        width=v["hidden_size"],
        num_layers=v["num_hidden_layers"],
        num_heads=v["num_attention_heads"],
        patch_size=v["patch_size"],
        resolution=v["image_size"],
        embed_dim=embed_dim,
        activation=_activation(v["hidden_act"], source),
    )
    if not has_text:
        return vision, None
    return vision, TextConfig(
        width=t["hidden_size"],
        num_layers=t["num_hidden_layers"],
        num_heads=t["num_attention_heads"],
        vocab_size=t["vocab_size"],
        context_length=t["max_position_embeddings"],
        embed_dim=embed_dim,
        activation=_activation(t["hidden_act"], source),
        # Older configs of OpenAI's models have 2, which transformers interprets as the highest token.
        end_token=None if t["eos_token_id"] == 2 else t["eos_token_id"],
    )


def huggingface_config(vision: VisionConfig, text: TextConfig | None) -> dict:
    """The config.json of transformers' CLIPModel; without a text tower, of CLIPVisionModelWithProjection."""
    vision_config = {
        "model_type": "clip_vision_model",
        "hidden_size": vision.width,
        "intermediate_size": 4 * vision.width,
        "num_hidden_layers": vision.num_layers,
        "num_attention_heads": vision.num_heads,
        "patch_size": vision.patch_size,
        "image_size": vision.resolution,
        "hidden_act": vision.activation,
        "layer_norm_eps": 1e-5,
        "projection_dim": vision.embed_dim,
    }
    if text is None:
        return {"architectures": ["CLIPVisionModelWithProjection"], **vision_config}
    text_config = {
        "model_type": "clip_text_model",
        "hidden_size": text.width,
        "intermediate_size": 4 * text.width,
        "num_hidden_layers": text.num_layers,
        "num_attention_heads": text.num_heads,
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_length,
        "hidden_act": text.activation,
        "layer_norm_eps": 1e-5,
        "projection_dim": text.embed_dim,
        "bos_token_id": None,
        "pad_token_id": None,
        "eos_token_id": 2 if text.end_token is None else text.end_token,
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": vision.embed_dim,
        "vision_config": vision_config,
        "text_config": text_config,
    }


def _tower(config: Mapping, name: str) -> dict:
    """Settings of one tower; in older files, NAME_config_dict overrides NAME_config, as in transformers."""
    return {**(config.get(f"{name}_config") or {}), **(config.get(f"{name}_config_dict") or {})}


def _activation(name: str, source: str) -> str:
    if name not in ACTIVATIONS:
        raise UserError(f"{source}: activation {name!r}, must be {' or '.join(ACTIVATIONS)}")
    return name


def _check_heads(width: int, num_heads: int, source: str) -> None:
    if num_heads < 1 or width % num_heads:
        raise UserError(f"{source}: width {width} cannot be split into {num_heads} attention heads")


_HEAD_WIDTH = 64  # of OpenAI's models; their files do not contain it


def openai_sizes(
    shapes: Shapes, has_text: bool, source: str, open_clip: Mapping | None = None
) -> tuple[VisionConfig, TextConfig | None]:
    """Sizes of the towers from the shapes of their tensors, for heads of width 64 and QuickGELU.

    Args:
        shapes: by OpenAI's names.
        has_text: whether there is a text tower.
        source: name of the file in error messages.
        open_clip: `model_cfg` of open_clip_config.json, which has the number of heads and the activation.

    Returns:
        The sizes. A size is 1 if no tensor contains it; `table.check` then reports the missing tensors.
    """
    cfg = open_clip or {}
    activation = "quick_gelu" if open_clip is None or cfg.get("quick_gelu") else "gelu"
    v, t = cfg.get("vision_cfg") or {}, cfg.get("text_cfg") or {}
    width = _size(shapes, ("visual.class_embedding", 0), ("visual.ln_pre.weight", 0), ("visual.ln_post.weight", 0))
    patch_size = _size(shapes, ("visual.conv1.weight", -1))
    num_patches = _size(shapes, ("visual.positional_embedding", 0)) - 1
    embed_dim = _size(shapes, ("visual.proj", 1), ("text_projection", 1))
    grid = round(num_patches**0.5)
    if grid**2 != num_patches:
        raise UserError(f"{source}: visual.positional_embedding has {num_patches} patches, must be a square number")
    num_heads = max(1, width // v.get("head_width", _HEAD_WIDTH))
    _check_heads(width, num_heads, source)
    vision = VisionConfig(
        width=width,
        num_layers=_num_layers(shapes, "visual.transformer.resblocks."),
        num_heads=num_heads,
        patch_size=patch_size,
        resolution=max(grid, 1) * patch_size,
        embed_dim=embed_dim,
        activation=activation,
    )
    if not has_text:
        return vision, None
    width = _size(shapes, ("ln_final.weight", 0), ("ln_final.bias", 0), ("token_embedding.weight", 1))
    num_heads = t.get("heads", max(1, width // _HEAD_WIDTH))
    _check_heads(width, num_heads, source)
    return vision, TextConfig(
        width=width,
        num_layers=_num_layers(shapes, "transformer.resblocks."),
        num_heads=num_heads,
        vocab_size=_size(shapes, ("token_embedding.weight", 0)),
        context_length=_size(shapes, ("positional_embedding", 0)),
        embed_dim=embed_dim,
        activation=activation,
    )


def openai_conflicts(vision: VisionConfig, text: TextConfig | None) -> list[str]:
    """Sizes of the towers that a file with OpenAI's names cannot contain, one phrase each."""
    conflicts = []
    for tower, config in (("vision", vision), ("text", text)):
        if config is None:
            continue
        if config.num_heads * _HEAD_WIDTH != config.width:
            conflicts.append(f"{tower} num_heads is {config.num_heads}, must be {config.width // _HEAD_WIDTH}")
        if config.activation != "quick_gelu":
            conflicts.append(f"{tower} activation is {config.activation}, must be quick_gelu")
    if text is not None and end_token(text) != text.vocab_size - 1:
        conflicts.append(f"text end_token is {text.end_token}, must be the largest id, {text.vocab_size - 1}")
    return conflicts


def end_token(text: TextConfig) -> int:
    """The id of the end token; the largest id if the configuration has none."""
    return text.vocab_size - 1 if text.end_token is None else text.end_token


def check_open_clip(cfg: Mapping, source: str) -> None:
    """Raises UserError if an open_clip model has another architecture than OpenAI's models.

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
        raise UserError(f"{source}: unsupported settings {settings}; use a model with OpenAI's architecture")


def _size(shapes: Shapes, *axes: tuple[str, int]) -> int:
    return infer_size(shapes, *axes) or 1


def _num_layers(shapes: Shapes, prefix: str) -> int:
    numbers = [int(match[1]) for name in shapes if (match := re.match(re.escape(prefix) + r"(\d+)\.", name))]
    return 1 + max(numbers, default=0)
