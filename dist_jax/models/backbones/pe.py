"""Perception Encoder Core (Bolya et al., arXiv 2504.13181) as a backbone."""

import dataclasses
from typing import ClassVar

import jax

from dist_jax.models.backbones.clip_text import ClipText
from dist_jax.models.backbones.pe_vision import PeVision, PeVisionConfig
from dist_jax.models.backbones.text_tower import TextTower
from dist_jax.models.backbones.vision_tower import VisionConfig, VisionTower
from dist_jax.models.backbones.vit import VitBackbone


@dataclasses.dataclass(frozen=True)
class PeBackbone(VitBackbone):
    """A Perception Encoder Core. All sizes but G have a class token.

    The summary of a frame is the pooled vector, also with a class token: the published code never reads only the class
    token. The pooling head was trained to summarise all tokens.
    """

    vision: PeVisionConfig

    vision_config: ClassVar[type[VisionConfig]] = PeVisionConfig
    vision_tower: ClassVar[type[VisionTower]] = PeVision
    text_tower: ClassVar[type[TextTower]] = ClipText

    mean = std = (0.5, 0.5, 0.5)

    @property
    def num_prefix_tokens(self) -> int:
        """See `Backbone.num_prefix_tokens`."""
        return self.vision.num_prefix_tokens

    def frame_summary(self, params: dict, last: jax.Array) -> jax.Array:
        """The pooled vector of each frame, after any block: [..., P+N, D] -> [..., D] in `dtype`."""
        return self._apply(params, last, "pool")

    def frame_embeddings(self, params: dict, last: jax.Array) -> jax.Array:
        """The projection of the pooled vector. See `Backbone.frame_embeddings`."""
        return self._apply(params, last, "embed")

    def _apply(self, params: dict, last: jax.Array, method: str) -> jax.Array:
        module = PeVision(self.vision, self.dtype, self.quantize)
        return module.apply({"params": params["vision"]}, last, method=method)
