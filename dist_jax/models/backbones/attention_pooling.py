"""The pooling head of SigLIP and of Perception Encoder."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dist_jax.models.attention import Attention
from dist_jax.models.layers import TOKEN_INIT, Activation, LayerNorm, Mlp, last_axis


class AttentionPooling(nn.Module):
    """A learned query attends to all tokens, then + MLP(LN x)."""

    num_heads: int
    mlp_dim: int
    activation: Activation
    dtype: jnp.dtype
    eps: float  # of the LayerNorm

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """[..., tokens, D] -> [..., D] in `dtype`."""
        width = tokens.shape[-1]
        probe = self.param("probe", TOKEN_INIT, (1, width)).astype(self.dtype)
        query = jnp.broadcast_to(last_axis(probe, tokens), (*tokens.shape[:-2], 1, width))
        x = Attention(self.num_heads, self.dtype, name="attention")(query, tokens)[..., 0, :]  # [..., D]
        y = LayerNorm(self.dtype, self.eps, name="ln")(x)
        return x + Mlp(self.mlp_dim, self.activation, self.dtype, name="mlp")(y)
