"""SigLIP and SigLIP 2 with fixed resolution, from Hugging Face."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from dist_jax.errors import UserError
from dist_jax.models.backbones.siglip import SiglipBackbone
from dist_jax.models.backbones.siglip_vision import EPS
from dist_jax.models.backbones.text_tower import TextConfig
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.models.backbones.vit import VitBackbone
from dist_jax.text.siglip_tokenizer import SiglipTokenizer
from dist_jax.text.text_features import check_ids
from dist_jax.weights import huggingface_files, table
from dist_jax.weights.backbone_files import CONFIG, OpenedWeights, UnsupportedBackboneError, check_normalization
from dist_jax.weights.backbone_model import Architecture, BackboneModel
from dist_jax.weights.clip_configs import check_heads
from dist_jax.weights.clip_formats import PATCHES, PROBE, huggingface_blocks
from dist_jax.weights.openai_sizes import ClipSettings
from dist_jax.weights.table import Entry, Table, Transform, joint_attention, layer_norm, linear

# Hugging Face's config.json may omit settings that have their default value. Both towers have these.
_DEFAULTS = dict(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
    hidden_act="gelu_pytorch_tanh", layer_norm_eps=EPS,
)  # fmt: skip
_VISION_DEFAULTS = {**_DEFAULTS, "image_size": 224, "patch_size": 16, "vision_use_head": True}
_TEXT_DEFAULTS = {**_DEFAULTS, "vocab_size": 32000, "max_position_embeddings": 64}

_SCALAR = Transform(lambda theirs, shape: theirs.reshape(shape), lambda ours: ours.reshape(1))

HUGGINGFACE: Table = (
    *linear("vision_model.embeddings.patch_embedding", "vision/patch_embedding", PATCHES),
    Entry("vision_model.embeddings.position_embedding.weight", ("vision/positions",)),
    *huggingface_blocks("vision_model.encoder.layers.{}", "vision/blocks"),
    *layer_norm("vision_model.post_layernorm", "vision/ln_post"),
    Entry("vision_model.head.probe", ("vision/head/probe",), PROBE),
    *joint_attention("vision_model.head.attention", "vision/head/attention"),
    *layer_norm("vision_model.head.layernorm", "vision/head/ln"),
    *linear("vision_model.head.mlp.fc1", "vision/head/mlp/fc"),
    *linear("vision_model.head.mlp.fc2", "vision/head/mlp/proj"),
    Entry("text_model.embeddings.token_embedding.weight", ("text/token_embedding",)),
    Entry("text_model.embeddings.position_embedding.weight", ("text/positions",)),
    *huggingface_blocks("text_model.encoder.layers.{}", "text/blocks"),
    *layer_norm("text_model.final_layer_norm", "text/ln_final"),
    *linear("text_model.head", "text/head"),
    Entry("logit_scale", ("logit_scale",), _SCALAR),
    Entry("logit_bias", ("logit_bias",), _SCALAR),
)
_BUFFERS = [f"{tower}_model.embeddings.position_ids" for tower in ("text", "vision")]  # in older files


@dataclasses.dataclass(frozen=True)
class SiglipModel(BackboneModel):
    """A loaded SigLIP."""

    kind: ClassVar[str] = "siglip"
    supports: ClassVar[str] = "SigLIP and SigLIP 2 with fixed resolution (files of Hugging Face)"
    backbone_class: ClassVar[type[VitBackbone]] = SiglipBackbone

    @classmethod
    def recognizes(cls, opened: OpenedWeights) -> bool:
        """See `BackboneModel.recognizes`."""
        huggingface = any(name.startswith("vision_model.") for name in opened.tensors)
        return huggingface and opened.config.get("model_type") in ("siglip", "siglip2")

    @classmethod
    def architecture(cls, opened: OpenedWeights, settings: ClipSettings) -> Architecture:
        """See `BackboneModel.architecture`."""
        source = str(opened.directory / CONFIG)
        if opened.config["model_type"] == "siglip2":
            raise UnsupportedBackboneError(
                f"{source}: SigLIP 2 with variable resolution (NaFlex, model_type siglip2) is not supported; use a "
                "model with fixed resolution, e.g. google/siglip2-base-patch16-224"
            )
        check_normalization(opened.directory, SiglipBackbone.mean, SiglipBackbone.std)
        vision, text = sizes(opened.config, source)
        settings.check(vision, text, opened.source)
        return Architecture(opened, HUGGINGFACE, vision, text, _BUFFERS)

    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        """See `BackboneModel.tokenize`."""
        assert self.text is not None
        if self._tokenizer.vocab_size != self.text.vocab_size:
            raise UserError(
                f"{self.tokenizer_mismatch}: it has {self._tokenizer.vocab_size} tokens, the text tower has "
                f"{self.text.vocab_size}"
            )
        if self._tokenizer.start_token is not None:
            raise UserError(
                f"{self.tokenizer_mismatch}: its texts start with {self._tokenizer.start_token}, those of SigLIP do not"
            )
        return self._tokenizer.encode(texts, self.text.context_length)

    def check_tokens(self, tokens: np.ndarray) -> np.ndarray:
        """See `BackboneModel.check_tokens`. The ids must be padded, because padding changes the embedding."""
        assert self.text is not None
        check_ids(tokens, self.text)
        if tokens.shape[1] != self.text.context_length:
            raise UserError(
                f"token ids have {tokens.shape[1]} columns, must be {self.text.context_length} with the padding"
            )
        return tokens.astype(np.int32)

    @cached_property
    def _tokenizer(self) -> SiglipTokenizer:
        return SiglipTokenizer(self.tokenizer_directory)


def sizes(config: Mapping, source: str) -> tuple[VisionConfig, TextConfig]:
    """Sizes of the towers from a Hugging Face config.json.

    The patch embedding ignores pixels at the right and lower border that do not fill a patch. So the resolution is the
    largest multiple of the patch size: 378 for patches of 14 and images of 384 pixels.

    Args:
        config: content of the file; its model_type is siglip.
        source: name of the file in error messages.

    Raises:
        UserError: another architecture.
    """
    v = {**_VISION_DEFAULTS, **(config.get("vision_config") or {})}
    t = {**_TEXT_DEFAULTS, **(config.get("text_config") or {})}
    required = dict(hidden_act="gelu_pytorch_tanh", layer_norm_eps=EPS)
    for name, tower, values in (("vision", v, {**required, "vision_use_head": True}), ("text", t, required)):
        for key, value in values.items():
            if tower[key] != value:
                raise UserError(f"{source}: {name}_config.{key} is {tower[key]!r}, must be {value!r}")
        check_heads(tower["hidden_size"], tower["num_attention_heads"], source)
    embed_dim = t.get("projection_size") or t["hidden_size"]
    if embed_dim != v["hidden_size"]:
        raise UserError(
            f"{source}: text_config.projection_size is {embed_dim}, must be {v['hidden_size']}, the width of the image "
            "tower"
        )
    vision = VisionConfig(
        width=v["hidden_size"],
        num_layers=v["num_hidden_layers"],
        num_heads=v["num_attention_heads"],
        patch_size=v["patch_size"],
        resolution=v["image_size"] - v["image_size"] % v["patch_size"],
        embed_dim=embed_dim,
        activation=v["hidden_act"],
        mlp_dim=v["intermediate_size"],
    )
    return vision, TextConfig(
        width=t["hidden_size"],
        num_layers=t["num_hidden_layers"],
        num_heads=t["num_attention_heads"],
        vocab_size=t["vocab_size"],
        context_length=t["max_position_embeddings"],
        embed_dim=embed_dim,
        activation=t["hidden_act"],
        mlp_dim=t["intermediate_size"],
    )


def save_huggingface(siglip_model: SiglipModel, directory: Path) -> None:
    """Writes config.json and model.safetensors (float32) for transformers' SiglipModel, without tokenizer files."""
    assert siglip_model.text is not None
    config = huggingface_config(siglip_model.vision, siglip_model.text)
    huggingface_files.write(directory, config, table.tree_to_theirs(HUGGINGFACE, siglip_model.params))


def huggingface_config(vision: VisionConfig, text: TextConfig) -> dict:
    """The config.json of transformers' SiglipModel."""
    image_size = {"image_size": vision.resolution, "patch_size": vision.patch_size}
    text_size = {
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_length,
        "projection_size": text.embed_dim,
        "bos_token_id": None,
        "pad_token_id": None,
        "eos_token_id": None,
    }
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "vision_config": {"model_type": "siglip_vision_model", **_tower_config(vision), **image_size},
        "text_config": {"model_type": "siglip_text_model", **_tower_config(text), **text_size},
    }


def _tower_config(config: VisionConfig | TextConfig) -> dict:
    return {
        "hidden_size": config.width,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "hidden_act": config.activation,
        "layer_norm_eps": EPS,
    }
