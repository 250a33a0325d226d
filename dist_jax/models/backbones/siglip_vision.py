"""SigLIP's image tower (Zhai et al., arXiv 2303.15343): a ViT without class token, pooled by attention."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from dist_jax.models.attention import Attention
from dist_jax.models.backbones.vision_tower import VisionTower
from dist_jax.models.layers import ACTIVATIONS, TOKEN_INIT, Activation, LayerNorm, Mlp, last_axis

EPS = 1e-6  # of all LayerNorms in SigLIP


class SiglipVision(VisionTower):
    """The image tower. No prefix token; E = D."""

    eps: ClassVar[float] = EPS
    patch_bias: ClassVar[bool] = True

    def setup(self) -> None:  # noqa: D102
        super().setup()
        c = self.config
        self.positions = self.param("positions", TOKEN_INIT, (c.num_patches, c.width))
        self.head = AttentionPooling(c.num_heads, c.mlp_dim, ACTIVATIONS[c.activation], self.dtype)

    def __call__(self, frames: jax.Array) -> jax.Array:
        """Normalised frames [F, H, W, 3] -> SigLIP's image embeddings [F, E] in `dtype`, not normalised."""
        return self.pool(self.features(frames[:, None], (self.config.num_layers - 1,))[0, 0])

    def pool(self, stream: jax.Array) -> jax.Array:
        """The stream after the last block [..., N, D] -> image embeddings [..., D] in `dtype`, not normalised."""
        return self.head(self.ln_post(stream))

    def tokens(self, frames: jax.Array) -> jax.Array:
        """See `VisionTower.tokens`."""
        patches = self.patch_embedding(frames).transpose(2, 1, 0, 3)  # [S, B, N, D]
        return patches + self.positions.astype(self.dtype)[None, None]


class AttentionPooling(nn.Module):
    """SigLIP's head: a learned query attends to all tokens, then + MLP(LN x)."""

    num_heads: int
    mlp_dim: int
    activation: Activation
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """[..., N, D] -> [..., D] in `dtype`."""
        width = tokens.shape[-1]
        probe = self.param("probe", TOKEN_INIT, (1, width)).astype(self.dtype)
        query = jnp.broadcast_to(last_axis(probe, tokens), (*tokens.shape[:-2], 1, width))
        x = Attention(self.num_heads, self.dtype, name="attention")(query, tokens)[..., 0, :]  # [..., D]
        y = LayerNorm(self.dtype, EPS, name="ln")(x)
        return x + Mlp(self.mlp_dim, self.activation, self.dtype, name="mlp")(y)
