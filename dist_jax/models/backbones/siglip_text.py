"""SigLIP's text tower (Zhai et al., arXiv 2303.15343): every token sees all others; read at the last position."""

from typing import ClassVar

import jax

from dist_jax.models.backbones.siglip_vision import EPS
from dist_jax.models.backbones.text_tower import TextTower
from dist_jax.models.layers import Linear


class SiglipText(TextTower):
    """The text tower. Texts are padded to `context_length`: padding changes the embedding."""

    causal: ClassVar[bool] = False
    eps: ClassVar[float] = EPS

    def embed(self, x: jax.Array, tokens: jax.Array) -> jax.Array:
        """See `TextTower.embed`."""
        del tokens
        return Linear(self.config.embed_dim, dtype=self.dtype, name="head")(x[:, -1])
