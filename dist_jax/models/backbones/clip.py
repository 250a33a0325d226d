"""CLIP (Radford et al., arXiv 2103.00020) as a backbone."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dist_jax.models.backbones.base import Backbone
from dist_jax.models.backbones.clip_text import ClipText, TextConfig
from dist_jax.models.backbones.clip_vision import ClipVision, VisionConfig

# Channel statistics of pixels 0..1 (OpenAI's released preprocessing).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class ClipBackbone(Backbone):
    """A CLIP with a ViT image tower. One prefix token: the class token."""

    vision: VisionConfig
    text: TextConfig | None = None  # None: no text tower
    dtype: jnp.dtype = jnp.float32
    quantize: str = ""  # of the image tower, see ClipVision

    num_prefix_tokens = 1
    mean = CLIP_MEAN
    std = CLIP_STD

    @property
    def num_layers(self) -> int:
        """L, blocks of the image tower."""
        return self.vision.num_layers

    @property
    def width(self) -> int:
        """D, width of the image tower."""
        return self.vision.width

    @property
    def embed_dim(self) -> int:
        """E, size of the joint embedding."""
        return self.vision.embed_dim

    @property
    def patch_size(self) -> int:
        """Height and width of a patch, pixels."""
        return self.vision.patch_size

    @property
    def resolution(self) -> int:
        """Height and width of a frame, pixels."""
        return self.vision.resolution

    def features(self, params: dict, frames: jax.Array, layers: Sequence[int], mesh: Mesh | None = None) -> jax.Array:
        """See `Backbone.features`."""
        backbone, params = self.first_layers(params, layers[-1] + 1)
        module = ClipVision(backbone.vision, self.dtype, self.quantize, mesh)
        return module.apply({"params": params["vision"]}, frames, tuple(layers), method="features")

    def frame_summary(self, params: dict, last: jax.Array) -> jax.Array:
        """The class token of each frame: [..., 1 + N, D] -> [..., D]."""
        del params
        return last[..., 0, :]

    def frame_embeddings(self, params: dict, last: jax.Array) -> jax.Array:
        """CLIP's image embeddings: LayerNorm and projection of the class token. See `Backbone.frame_embeddings`."""
        module = ClipVision(self.vision, self.dtype, self.quantize)
        return module.apply({"params": params["vision"]}, last[..., 0, :], method="embed")

    def text_embeddings(self, params: dict, tokens: jax.Array) -> jax.Array:
        """See `Backbone.text_embeddings`. Always computed in float32: the text tower runs only once."""
        return ClipText(self.text).apply({"params": params["text"]}, tokens)

    def first_layers(self, params: dict, num_layers: int) -> tuple["ClipBackbone", dict]:
        """See `Backbone.first_layers`."""
        if num_layers == self.num_layers:
            return self, params
        blocks = jax.tree.map(lambda leaf: leaf[:num_layers], params["vision"]["blocks"])
        vision = dataclasses.replace(self.vision, num_layers=num_layers)
        return dataclasses.replace(self, vision=vision), params | {"vision": params["vision"] | {"blocks": blocks}}
