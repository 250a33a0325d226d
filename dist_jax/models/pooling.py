"""The pooling layers of the DiST network: a query per frame reads the frame's tokens, a query per clip the frames.

Symbols: see `dist_network`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dist_jax.models.attention import Attention, joint_xavier
from dist_jax.models.layers import (
    TOKEN_INIT,
    KernelAndBias,
    LayerNorm,
    LayerNormParameters,
    Mlp,
    last_axis,
    quick_gelu,
    standardize,
)


class PoolingLayer(nn.Module):
    """A spatial query per frame attends to the frame's tokens; a video query attends to the spatial queries."""

    num_frames: int  # S
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, carry: tuple[jax.Array, jax.Array], tokens: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        """One layer.

        Args:
            carry: spatial queries [S, B, C] and video queries [B, 1, C].
            tokens: `standardize`d tokens of the frames, [1+N, S, B, C].

        Returns:
            The new carry, and None (a scan's outputs).
        """
        spatial, video = carry
        spatial = spatial + SpatialAttention(self.dtype, name="spatial")(spatial, tokens)
        spatial = spatial + self._mlp(spatial, "spatial")
        positions = self.param("positions", TOKEN_INIT, (self.num_frames, spatial.shape[-1])).astype(self.dtype)
        frames = (spatial + positions[:, None]).swapaxes(0, 1)  # [B, S, C]
        video = video + CrossAttention(self.dtype, name="temporal")(video, frames)
        video = video + self._mlp(video, "temporal")
        return (spatial, video), None

    def _mlp(self, x: jax.Array, name: str) -> jax.Array:
        x = LayerNorm(self.dtype, name=f"{name}_ln")(x)
        return Mlp(4 * x.shape[-1], quick_gelu, self.dtype, name=f"{name}_mlp")(x)


class CrossAttention(nn.Module):
    """Attention in which query, key and value share one LayerNorm; C / 64 heads."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, query: jax.Array, context: jax.Array) -> jax.Array:
        """Query [B, I, C] attends to context [B, J, C] -> [B, I, C]."""
        ln = LayerNorm(self.dtype, name="ln")
        return Attention(query.shape[-1] // 64, self.dtype, name="attention")(ln(query), ln(context))


class SpatialAttention(nn.Module):
    """`CrossAttention` with a single query per frame."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, query: jax.Array, tokens: jax.Array) -> jax.Array:
        """Query [S, B, C] attends to `standardize`d tokens [1+N, S, B, C] -> [S, B, C]."""
        width = query.shape[-1]
        scale, bias = LayerNormParameters(width, name="ln")()
        query = (standardize(query) * last_axis(scale, query) + last_axis(bias, query)).astype(self.dtype)
        return SingleQueryAttention(width // 64, self.dtype, name="attention")(query, tokens, scale, bias)


class SingleQueryAttention(nn.Module):
    """`Attention` of single queries, with a LayerNorm of the context; the parameters are those of `Attention`.

    Keys and values are not computed. With one query, the key's kernel is applied to the query, and the value's kernel
    to the weighted mean of the tokens: the tokens are read twice, and no product over all tokens remains. The key's
    bias adds the same number to all scores of a query and has no effect.
    """

    num_heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, query: jax.Array, tokens: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        """Query [S, B, C] attends to the tokens of its frame and clip -> [S, B, C] in `dtype`.

        Args:
            query: in `dtype`.
            tokens: `standardize`d, [J, S, B, C].
            scale: of the LayerNorm of the tokens, float32 [C].
            bias: of the LayerNorm of the tokens, float32 [C].
        """
        width = query.shape[-1]
        heads = (self.num_heads, width // self.num_heads)
        joint = {"kernel_init": joint_xavier, "dtype": self.dtype}
        query_kernel, query_bias = KernelAndBias((width, *heads), heads, name="query", **joint)()
        key_kernel, _ = KernelAndBias((width, *heads), heads, name="key", **joint)()
        value_kernel, value_bias = KernelAndBias((width, *heads), heads, name="value", **joint)()
        q = jnp.einsum("sbc,chd->sbhd", query, query_kernel)
        q = (q + last_axis(query_bias, q)) * heads[1] ** -0.5
        q = jnp.einsum("sbhd,chd->hsbc", q, key_kernel)  # one query over the channels per head
        q = (q * last_axis(scale, q).astype(self.dtype)).astype(jnp.float32)
        tokens = tokens.astype(jnp.float32)
        scores = jnp.stack([jnp.sum(tokens * q[h][None], axis=-1) for h in range(self.num_heads)])  # [H, 1+N, S, B]
        weights = nn.softmax(scores, axis=1)
        self.sow("intermediates", "weights", weights)  # read by VideoModel.attention; no effect without `mutable`
        pooled = jnp.stack([jnp.sum(tokens * weights[h][..., None], axis=0) for h in range(self.num_heads)])
        pooled = pooled * last_axis(scale, pooled) + last_axis(bias, pooled)  # [H, S, B, C]
        values = jnp.einsum("hsbc,chd->sbhd", pooled.astype(self.dtype), value_kernel)
        values = values + last_axis(value_bias, values)
        return nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, kernel_init=TOKEN_INIT, name="out")(values)
