"""SigLIP and SigLIP 2 with fixed resolution (arXiv 2303.15343, 2502.14786) as a backbone."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from dist_jax.models.backbones.siglip_text import SiglipText
from dist_jax.models.backbones.siglip_vision import SiglipVision
from dist_jax.models.backbones.text_tower import TextTower
from dist_jax.models.backbones.vision_tower import VisionTower
from dist_jax.models.backbones.vit import VitBackbone


@dataclasses.dataclass(frozen=True)
class SiglipBackbone(VitBackbone):
    """A SigLIP. No prefix token; the image embedding is also the summary of a frame, so E = D."""

    vision_tower: ClassVar[type[VisionTower]] = SiglipVision
    text_tower: ClassVar[type[TextTower]] = SiglipText
    scalars: ClassVar[tuple[str, ...]] = ("logit_scale", "logit_bias")

    num_prefix_tokens = 0
    mean = std = (0.5, 0.5, 0.5)

    def frame_summary(self, params: dict, last: jax.Array) -> jax.Array:
        """The pooled vector of each frame, after any block: [..., N, D] -> [..., D] in `dtype`."""
        module = SiglipVision(self.vision, self.dtype, self.quantize)
        return module.apply({"params": params["vision"]}, last, method="pool")

    def frame_embeddings(self, params: dict, last: jax.Array) -> jax.Array:
        """See `Backbone.frame_embeddings`."""
        return self.frame_summary(params, last).astype(jnp.float32)
