"""CLIP (Radford et al., arXiv 2103.00020) as a backbone."""

import dataclasses
from typing import ClassVar

import jax

from dist_jax.models.backbones.clip_text import ClipText
from dist_jax.models.backbones.clip_vision import ClipVision
from dist_jax.models.backbones.text_tower import TextTower
from dist_jax.models.backbones.vision_tower import VisionTower
from dist_jax.models.backbones.vit import VitBackbone

# Channel statistics of pixels 0..1 (OpenAI's released preprocessing).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class ClipBackbone(VitBackbone):
    """A CLIP with a ViT image tower. One prefix token: the class token."""

    vision_tower: ClassVar[type[VisionTower]] = ClipVision
    text_tower: ClassVar[type[TextTower]] = ClipText

    num_prefix_tokens = 1
    mean = CLIP_MEAN
    std = CLIP_STD

    def frame_summary(self, params: dict, last: jax.Array) -> jax.Array:
        """The class token of each frame: [..., 1 + N, D] -> [..., D]."""
        del params
        return last[..., 0, :]

    def frame_embeddings(self, params: dict, last: jax.Array) -> jax.Array:
        """CLIP's image embeddings: LayerNorm and projection of the class token. See `Backbone.frame_embeddings`."""
        module = ClipVision(self.vision, self.dtype, self.quantize)
        return module.apply({"params": params["vision"]}, last[..., 0, :], method="embed")
