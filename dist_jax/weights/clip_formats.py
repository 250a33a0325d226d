"""The formats in which CLIP's towers are published: tables of names, and the sizes that a file or its config says.

Ours is {"vision": ClipVision's parameters, "text": ClipText's, "logit_scale"}; blocks are stacked [L, ...].
"""

import re
from collections.abc import Collection, Mapping

from dist_jax.errors import UserError
from dist_jax.models.backbones.clip_text import TextConfig
from dist_jax.models.backbones.clip_vision import VisionConfig
from dist_jax.models.layers import ACTIVATIONS
from dist_jax.weights.table import (
    FROM_HEADS,
    HEADS_BIAS,
    INTO_HEADS,
    LINEAR,
    Entry,
    Shapes,
    Table,
    axes,
    joint_attention,
    layer_norm,
    linear,
    size,
)

_PATCHES = axes(2, 3, 1, 0)  # [out, in, height, width] -> [height, width, in, out]


def _openai_blocks(name: str, path: str) -> Table:
    return (
        *joint_attention(f"{name}.attn", f"{path}/attention"),
        *layer_norm(f"{name}.ln_1", f"{path}/ln_1"),
        *linear(f"{name}.mlp.c_fc", f"{path}/mlp/fc"),
        *linear(f"{name}.mlp.c_proj", f"{path}/mlp/proj"),
        *layer_norm(f"{name}.ln_2", f"{path}/ln_2"),
    )


def _huggingface_blocks(name: str, path: str) -> Table:
    attention = [
        entry
        for part, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"))
        for entry in (
            Entry(f"{name}.self_attn.{part}.weight", (f"{path}/attention/{ours}/kernel",), INTO_HEADS),
            Entry(f"{name}.self_attn.{part}.bias", (f"{path}/attention/{ours}/bias",), HEADS_BIAS),
        )
    ]
    return (
        *attention,
        *linear(f"{name}.self_attn.out_proj", f"{path}/attention/out", FROM_HEADS),
        *layer_norm(f"{name}.layer_norm1", f"{path}/ln_1"),
        *linear(f"{name}.mlp.fc1", f"{path}/mlp/fc"),
        *linear(f"{name}.mlp.fc2", f"{path}/mlp/proj"),
        *layer_norm(f"{name}.layer_norm2", f"{path}/ln_2"),
    )


OPENAI: Table = (
    Entry("visual.class_embedding", ("vision/class_token",)),
    Entry("visual.positional_embedding", ("vision/positions",)),
    Entry("visual.proj", ("vision/proj",)),
    Entry("visual.conv1.weight", ("vision/patch_embedding/kernel",), _PATCHES),
    *layer_norm("visual.ln_pre", "vision/ln_pre"),
    *_openai_blocks("visual.transformer.resblocks.{}", "vision/blocks"),
    *layer_norm("visual.ln_post", "vision/ln_post"),
    Entry("positional_embedding", ("text/positions",)),
    Entry("text_projection", ("text/proj",)),
    Entry("token_embedding.weight", ("text/token_embedding",)),
    *_openai_blocks("transformer.resblocks.{}", "text/blocks"),
    *layer_norm("ln_final", "text/ln_final"),
    Entry("logit_scale", ("logit_scale",)),
)

HUGGINGFACE: Table = (
    Entry("vision_model.embeddings.class_embedding", ("vision/class_token",)),
    Entry("vision_model.embeddings.position_embedding.weight", ("vision/positions",)),
    Entry("visual_projection.weight", ("vision/proj",), LINEAR),
    Entry("vision_model.embeddings.patch_embedding.weight", ("vision/patch_embedding/kernel",), _PATCHES),
    *layer_norm("vision_model.pre_layrnorm", "vision/ln_pre"),  # their spelling
    *_huggingface_blocks("vision_model.encoder.layers.{}", "vision/blocks"),
    *layer_norm("vision_model.post_layernorm", "vision/ln_post"),
    Entry("text_model.embeddings.position_embedding.weight", ("text/positions",)),
    Entry("text_projection.weight", ("text/proj",), LINEAR),
    Entry("text_model.embeddings.token_embedding.weight", ("text/token_embedding",)),
    *_huggingface_blocks("text_model.encoder.layers.{}", "text/blocks"),
    *layer_norm("text_model.final_layer_norm", "text/ln_final"),
    Entry("logit_scale", ("logit_scale",)),
)

# What files hold beside the parameters: sizes, numbers of positions, the causal mask.
_BUFFERS = re.compile(
    r"input_resolution|context_length|vocab_size|(transformer\.resblocks\.\d+\.)?attn_mask|"
    r"(text|vision)_model\.embeddings\.position_ids"
)


def buffers(names: Mapping[str, object]) -> list[str]:
    """Those of the names that are no parameters and say nothing that the parameters do not."""
    return [name for name in names if _BUFFERS.fullmatch(name)]


def only(table: Table, parts: Collection[str]) -> Table:
    """The lines of a table for some of "vision", "text", "logit_scale"."""
    return tuple(entry for entry in table if entry.paths[0].partition("/")[0] in parts)


def has_text(table: Table, found: Shapes) -> bool:
    """Whether any of the text tower's tensors is there."""
    first = [entry.name.format(0) for entry in only(table, ["text"])]
    return any(name in found for name in first)


HUGGINGFACE_MODELS = ("clip", "clip_vision_model")  # a config.json's model_type; the second is an image tower alone

# Hugging Face's config.json may leave out what equals its default.
_VISION_DEFAULTS = dict(
    hidden_size=768, num_hidden_layers=12, num_attention_heads=12, patch_size=32, image_size=224,
    hidden_act="quick_gelu", layer_norm_eps=1e-5, projection_dim=512,
)  # fmt: skip
_TEXT_DEFAULTS = dict(
    hidden_size=512, num_hidden_layers=12, num_attention_heads=8, vocab_size=49408, max_position_embeddings=77,
    hidden_act="quick_gelu", layer_norm_eps=1e-5, eos_token_id=49407,
)  # fmt: skip


def huggingface_sizes(config: Mapping, text: bool, source: str) -> tuple[VisionConfig, TextConfig | None]:
    """Sizes of the towers by a Hugging Face config.json (model_type one of HUGGINGFACE_MODELS)."""
    if config.get("model_type") not in HUGGINGFACE_MODELS:
        raise UserError(f"{source}: model_type is {config.get('model_type')!r}; only clip can be loaded")
    alone = config["model_type"] == "clip_vision_model"
    v = {**_VISION_DEFAULTS, **(config if alone else _tower(config, "vision"))}
    t = {**_TEXT_DEFAULTS, **({} if alone else _tower(config, "text"))}
    embed = v["projection_dim"] if alone else config.get("projection_dim", 512)
    for tower in (v, t):
        if abs(tower["layer_norm_eps"] - 1e-5) > 1e-9:
            raise UserError(f"{source}: layer_norm_eps is {tower['layer_norm_eps']}; CLIP's 1e-5 is what can be loaded")
        _check_heads(tower["hidden_size"], tower["num_attention_heads"], source)
    vision = VisionConfig(
        width=v["hidden_size"],
        num_layers=v["num_hidden_layers"],
        num_heads=v["num_attention_heads"],
        patch_size=v["patch_size"],
        resolution=v["image_size"],
        embed_dim=embed,
        activation=_activation(v["hidden_act"], source),
    )
    if not text:
        return vision, None
    return vision, TextConfig(
        width=t["hidden_size"],
        num_layers=t["num_hidden_layers"],
        num_heads=t["num_attention_heads"],
        vocab_size=t["vocab_size"],
        context_length=t["max_position_embeddings"],
        embed_dim=embed,
        activation=_activation(t["hidden_act"], source),
        # 2 is what configs of OpenAI's models say from before transformers read the end token by its number; there
        # it stands for the highest token.
        end_token=None if t["eos_token_id"] == 2 else t["eos_token_id"],
    )


def huggingface_config(vision: VisionConfig, text: TextConfig | None) -> dict:
    """The config.json from which transformers' CLIPModel (CLIPVisionModelWithProjection without text) is built."""
    of_vision = {
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
        return {"architectures": ["CLIPVisionModelWithProjection"], **of_vision}
    of_text = {
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
        "vision_config": of_vision,
        "text_config": of_text,
    }


def _tower(config: Mapping, name: str) -> dict:
    """A tower's part of a config.json; old ones have a second one, which transformers lets overrule the first."""
    return {**(config.get(f"{name}_config") or {}), **(config.get(f"{name}_config_dict") or {})}


def _activation(name: str, source: str) -> str:
    if name not in ACTIVATIONS:
        raise UserError(f"{source}: activation {name!r}; it may be {' or '.join(ACTIVATIONS)}")
    return name


def _check_heads(width: int, heads: int, source: str) -> None:
    if heads < 1 or width % heads:
        raise UserError(f"{source}: width {width} cannot be split into {heads} attention heads")


_HEAD_WIDTH = 64  # in OpenAI's models, whose files do not say it


def openai_sizes(
    found: Shapes, text: bool, source: str, open_clip: Mapping | None = None
) -> tuple[VisionConfig, TextConfig | None]:
    """Sizes of the towers by the tensors' shapes, heads being of width 64 and the activation QuickGELU.

    Args:
        found: shapes by OpenAI's names.
        text: whether there is a text tower.
        source: what error messages call the file.
        open_clip: `model_cfg` of an open_clip_config.json, which says heads and activation.

    Returns:
        The sizes. Those that no tensor says are 1; then a tensor is missing, as comparing all of them will tell.
    """
    cfg = open_clip or {}
    activation = "quick_gelu" if open_clip is None or cfg.get("quick_gelu") else "gelu"
    v, t = cfg.get("vision_cfg") or {}, cfg.get("text_cfg") or {}
    width = _size(found, ("visual.class_embedding", 0), ("visual.ln_pre.weight", 0), ("visual.ln_post.weight", 0))
    patch = _size(found, ("visual.conv1.weight", -1))
    patches = _size(found, ("visual.positional_embedding", 0)) - 1
    embed = _size(found, ("visual.proj", 1), ("text_projection", 1))
    grid = round(patches**0.5)
    if grid**2 != patches:
        raise UserError(f"{source}: visual.positional_embedding has {patches} patches, which are no square")
    vision_heads = max(1, width // v.get("head_width", _HEAD_WIDTH))
    _check_heads(width, vision_heads, source)
    layers = _layers(found, "visual.transformer.resblocks.")
    vision = VisionConfig(width, layers, vision_heads, patch, max(grid, 1) * patch, embed, activation)
    if not text:
        return vision, None
    width = _size(found, ("ln_final.weight", 0), ("ln_final.bias", 0), ("token_embedding.weight", 1))
    heads = t.get("heads", max(1, width // _HEAD_WIDTH))
    _check_heads(width, heads, source)
    return vision, TextConfig(
        width=width,
        num_layers=_layers(found, "transformer.resblocks."),
        num_heads=heads,
        vocab_size=_size(found, ("token_embedding.weight", 0)),
        context_length=_size(found, ("positional_embedding", 0)),
        embed_dim=embed,
        activation=activation,
    )


def openai_conflicts(vision: VisionConfig, text: TextConfig | None) -> list[str]:
    """What tensors by OpenAI's names alone cannot say of these towers, one phrase each."""
    found = []
    for tower, config in (("vision", vision), ("text", text)):
        if config is not None and config.num_heads * _HEAD_WIDTH != config.width:
            found.append(f"{tower} heads are {config.num_heads} where its width implies {config.width // _HEAD_WIDTH}")
        if config is not None and config.activation != "quick_gelu":
            found.append(f"{tower} activation is {config.activation} where quick_gelu is taken")
    if text is not None and end_token(text) != text.vocab_size - 1:
        found.append(f"text end_token is {text.end_token} where the largest id, {text.vocab_size - 1}, is read")
    return found


def end_token(text: TextConfig) -> int:
    """The token at which a text is read: the largest id where the format says no other."""
    return text.vocab_size - 1 if text.end_token is None else text.end_token


def _size(found: Shapes, *places: tuple[str, int]) -> int:
    return size(found, *places) or 1


def _layers(found: Shapes, prefix: str) -> int:
    numbers = [int(match[1]) for name in found if (match := re.match(re.escape(prefix) + r"(\d+)\.", name))]
    return 1 + max(numbers, default=0)


def check_open_clip(cfg: Mapping, source: str) -> None:
    """Refuses an open_clip model that is more than OpenAI's architecture in another file."""
    plain_vision = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
    plain_text = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
    names = {f"model_cfg.{key}" for key in set(cfg) - {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"}}
    names |= {f"vision_cfg.{key}" for key in set(cfg.get("vision_cfg") or {}) - plain_vision}
    names |= {f"text_cfg.{key}" for key in set(cfg.get("text_cfg") or {}) - plain_text}
    if names:
        raise UserError(
            f"{source}: not OpenAI's architecture, by {', '.join(sorted(names))}; CLIP models with none of these "
            "settings can be loaded"
        )
