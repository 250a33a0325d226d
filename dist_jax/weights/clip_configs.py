"""Sizes of CLIP's towers in the config files of Hugging Face."""

from collections.abc import Mapping

from dist_jax.errors import UserError
from dist_jax.models.backbones.text_tower import TextConfig
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.models.layers import ACTIVATIONS
from dist_jax.weights.backbone_files import UnsupportedBackboneError

HUGGINGFACE_MODELS = ("clip", "clip_vision_model")  # model_type in config.json; the second has no text tower

# Hugging Face's config.json may omit settings that have their default value.
_VISION_DEFAULTS = dict(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=32,
    image_size=224, hidden_act="quick_gelu", layer_norm_eps=1e-5, projection_dim=512,
)  # fmt: skip
_TEXT_DEFAULTS = dict(
    hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8, vocab_size=49408,
    max_position_embeddings=77, hidden_act="quick_gelu", layer_norm_eps=1e-5, eos_token_id=49407,
)  # fmt: skip


_SIZES = {
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("patch_size", "image_size", "vocab_size", "max_position_embeddings"),
}


def huggingface_sizes(config: Mapping, has_text: bool, source: str) -> tuple[VisionConfig, TextConfig | None]:
    """Sizes of the towers from a Hugging Face config.json.

    Args:
        config: content of the file; its model_type is one of HUGGINGFACE_MODELS.
        has_text: whether the weights have a text tower.
        source: name of the file in error messages.

    Raises:
        UnsupportedBackboneError: another kind of model.
        UserError: another architecture.
    """
    if config.get("model_type") not in HUGGINGFACE_MODELS:
        raise UnsupportedBackboneError(
            f"{source}: model_type is {config.get('model_type')!r}, must be {' or '.join(HUGGINGFACE_MODELS)}"
        )
    vision_only = config["model_type"] == "clip_vision_model"
    v = {**_VISION_DEFAULTS, **(config if vision_only else _tower(config, "vision"))}
    t = {**_TEXT_DEFAULTS, **({} if vision_only else _tower(config, "text"))}
    embed_dim = v["projection_dim"] if vision_only else config.get("projection_dim", 512)
    for tower in (v, t):
        _check_sizes(tower, source)
        if abs(tower["layer_norm_eps"] - 1e-5) > 1e-9:
            raise UserError(f"{source}: layer_norm_eps is {tower['layer_norm_eps']}, must be 1e-5")
        check_heads(tower["hidden_size"], tower["num_attention_heads"], source)
    vision = VisionConfig(
        width=v["hidden_size"],
        num_layers=v["num_hidden_layers"],
        num_heads=v["num_attention_heads"],
        patch_size=v["patch_size"],
        resolution=v["image_size"],
        embed_dim=embed_dim,
        activation=_activation(v["hidden_act"], source),
        mlp_dim=v["intermediate_size"],
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
        mlp_dim=t["intermediate_size"],
        # Older configs of OpenAI's models have 2, which transformers interprets as the highest token.
        end_token=None if t["eos_token_id"] == 2 else t["eos_token_id"],
    )


def huggingface_config(vision: VisionConfig, text: TextConfig | None) -> dict:
    """The config.json of transformers' CLIPModel; without a text tower, of CLIPVisionModelWithProjection."""
    vision_config = {
        "model_type": "clip_vision_model",
        "hidden_size": vision.width,
        "intermediate_size": vision.mlp_dim,
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
        "intermediate_size": text.mlp_dim,
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


def _check_sizes(tower: Mapping, source: str) -> None:
    for name in _SIZES & tower.keys():
        if type(tower[name]) is not int or tower[name] < 1:
            raise UserError(f"{source}: {name} is {tower[name]!r}, must be a positive integer")


def _activation(name: str, source: str) -> str:
    if name not in ACTIVATIONS:
        raise UserError(f"{source}: activation {name!r}, must be {' or '.join(ACTIVATIONS)}")
    return name


def check_heads(width: int, num_heads: int, source: str) -> None:
    """Raises UserError unless a tower of this width can have this number of attention heads."""
    if num_heads < 1 or width % num_heads:
        raise UserError(f"{source}: width {width} cannot be split into {num_heads} attention heads")


def end_token(text: TextConfig) -> int:
    """The id of the end token; the largest id if the configuration has none."""
    return text.vocab_size - 1 if text.end_token is None else text.end_token
