"""The DiST network (arXiv 2309.07911, section 3): temporal encoder, integration branch and pooling.

Symbols: B clips, T frames, S = T / alpha frames of the backbone, N = h * w patches, D backbone width, C integration
width, M temporal width, E joint embedding, L_selected backbone blocks that are read. "1+N" means the tokens of a frame:
the backbone's prefix tokens (1 for CLIP, the class token), then N patches.
"""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from dist_jax.models.layers import TOKEN_INIT, Attention, LayerNorm, Linear, Mlp, quick_gelu


@dataclasses.dataclass(frozen=True)
class DistConfig:
    """Sizes of a DiST network."""

    num_frames: int  # T
    alpha: int  # the backbone sees every alpha-th frame
    layers: tuple[int, ...]  # backbone blocks that are read, counted from 0, increasing
    patch_size: int  # pixels; the backbone's, so both grids are the same
    backbone_width: int  # D
    embed_dim: int  # E
    integration_width: int  # C, a multiple of 64
    temporal_width: int  # M
    num_pooling_layers: int  # P

    @property
    def num_sparse_frames(self) -> int:
        """S, frames that the backbone sees."""
        return self.num_frames // self.alpha


REMAT_POLICIES = {  # config.model.remat -> what a DiST layer saves for its backward pass
    "layers": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class DistNetwork(nn.Module):
    """Frozen features and all frames of a clip -> one embedding in the backbone's joint space."""

    config: DistConfig
    dtype: jnp.dtype = jnp.float32  # of the arithmetic; parameters and the embedding are float32
    remat: str = "none"  # none | layers | dots

    @nn.compact
    def __call__(self, features: jax.Array, frame_summary: jax.Array, video: jax.Array) -> jax.Array:
        """Embeds clips.

        Args:
            features: residual stream of the selected backbone blocks, float [L_selected, B, S, 1+N, D].
            frame_summary: `Backbone.frame_summary` of the last selected block, float [B, S, D].
            video: all frames, normalised as for the backbone, float [B, T, H, W, 3].

        Returns:
            Video embeddings, float32 [B, E], not normalised.
        """
        c = self.config
        # The published stem is a 3-D convolution of kernel (5, p, p), stride (1, p, p), padding (2, 0, 0).
        stem = TemporalConv(c.temporal_width, 5, self.dtype, name="temporal_stem")
        z = stem(space_to_channels(video, c.patch_size))  # [B, T, h, w, M]
        zeros = jnp.zeros((*features.shape[1:4], c.integration_width), self.dtype)  # [B, S, 1+N, C]
        layer = (
            DistLayer
            if self.remat == "none"
            else nn.remat(DistLayer, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        )
        layers = nn.scan(layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=len(c.layers))
        (_, r, m), _ = layers(c, self.dtype, name="layers")((z, zeros, zeros), features)
        y = r + m  # [B, S, 1+N, C]
        pooled = self._pool(y)  # [B, C]
        summary = jnp.mean(frame_summary.astype(jnp.float32), axis=1)  # [B, D]
        pooled = pooled + Linear(c.integration_width, dtype=self.dtype, name="class_projection")(summary)
        proj_init = nn.initializers.normal(c.integration_width**-0.5)
        proj = self.param("proj", proj_init, (c.integration_width, c.embed_dim))
        # Full precision on accelerators too: the logits are float32 and this product is small.
        return jnp.dot(LayerNorm(jnp.float32, name="ln_post")(pooled), proj, precision=jax.lax.Precision.HIGHEST)

    def _pool(self, y: jax.Array) -> jax.Array:
        """[B, S, 1+N, C] -> [B, C]: P layers with one spatial query per frame and one video query per clip."""
        c = self.config
        width = c.integration_width
        spatial = self.param("spatial_query", TOKEN_INIT, (width,)).astype(self.dtype)
        video = self.param("video_query", TOKEN_INIT, (width,)).astype(self.dtype)
        batch, frames = y.shape[:2]
        s = jnp.broadcast_to(spatial, (batch * frames, 1, width))  # [B*S, 1, C]
        a = jnp.broadcast_to(video, (batch, 1, width))  # [B, 1, C]
        pooling = nn.scan(
            PoolingLayer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.num_pooling_layers,
        )
        tokens = y.reshape(batch * frames, -1, width)  # [B*S, 1+N, C]
        (_, a), _ = pooling(c.num_sparse_frames, self.dtype, name="pooling")((s, a), tokens)
        return a[:, 0]


def space_to_channels(video: jax.Array, patch: int) -> jax.Array:
    """Frames [B, T, H, W, 3] -> their patches [B, T, h, w, patch * patch * 3], row by row; `patch` in pixels."""
    b, t, height, width, channels = video.shape
    h, w = height // patch, width // patch
    patches = video.reshape(b, t, h, patch, w, patch, channels).swapaxes(3, 4)  # [B, T, h, w, patch, patch, 3]
    return patches.reshape(b, t, h, w, patch * patch * channels)


class TemporalConv(nn.Module):
    """Convolution along axis 1 (time), zero-padded to keep the length.

    One matrix product computes all taps. Their results are shifted and added. The product reads the input once, without
    a copy, in the forward and the backward pass, on all backends.
    """

    width: int
    kernel: int  # taps, odd
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, ..., in] -> [B, T, ..., width] in `dtype`."""
        kernel = self.param("kernel", TOKEN_INIT, (self.kernel, x.shape[-1], self.width))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,))
        kernel = kernel.astype(self.dtype).swapaxes(0, 1).reshape(x.shape[-1], -1)  # [in, taps * width]
        taps = jnp.dot(x.astype(self.dtype), kernel)  # [B, T, ..., taps * width]
        half, frames = self.kernel // 2, x.shape[1]
        taps = jnp.pad(taps, [(0, 0), (half, half)] + [(0, 0)] * (x.ndim - 2))  # [B, T + 2 * half, ..., taps * width]
        shifted = (
            taps[:, k : k + frames, ..., k * self.width : (k + 1) * self.width] for k in range(self.kernel)
        )  # [B, T, ..., width] each
        return sum(shifted, start=jnp.broadcast_to(bias.astype(self.dtype), (*x.shape[:-1], self.width)))


class SpatialConv(nn.Module):
    """Convolution (1, 3, 3) over the patches of each frame, zero-padded to keep the grid."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, h, w, in] -> [B, T, h, w, width] in `dtype`."""
        kernel = self.param("kernel", TOKEN_INIT, (3, 3, x.shape[-1], self.width))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,)).astype(self.dtype)
        # On CPU, XLA uses one core for a convolution inside a loop. One matrix product over the gathered neighbours is
        # about eight times as fast.
        convolve = partial(jax.lax.platform_dependent, cpu=_gather_and_multiply, default=_convolve)
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.reshape(1, 1, 1, 1, -1)


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    frames = x.reshape(-1, *x.shape[2:])  # [B*T, h, w, in]
    y = jax.lax.conv_general_dilated(frames, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y.reshape(*x.shape[:4], -1)


def _gather_and_multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
    h, w = x.shape[2:4]
    padded = jnp.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
    neighbours = [padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)]  # [B, T, h, w, in] each
    return jnp.dot(jnp.concatenate(neighbours, axis=-1), kernel.reshape(-1, kernel.shape[-1]))


class TemporalBlock(nn.Module):
    """Residual block of the temporal encoder: g(z + conv(1,3,3)(g(conv(3,1,1)(LN z))))."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """[B, T, h, w, M] -> [B, T, h, w, M]."""
        width = z.shape[-1]
        x = TemporalConv(width, 3, self.dtype, name="conv_time")(LayerNorm(self.dtype, name="ln")(z))
        return quick_gelu(z + SpatialConv(width, self.dtype, name="conv_space")(quick_gelu(x)))


class TemporalFfn(nn.Module):
    """Linear C -> C/4, convolution along time (kernel 3), g, linear C/4 -> C; per token."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, S, 1+N, C] -> [B, S, 1+N, C]."""
        width = x.shape[-1]
        hidden = Linear(width // 4, dtype=self.dtype, name="reduce")(x)
        hidden = TemporalConv(width // 4, 3, self.dtype, name="conv_time")(hidden)
        return Linear(width, dtype=self.dtype, name="expand")(quick_gelu(hidden))


class DistLayer(nn.Module):
    """The layer that reads one CLIP block: temporal block, exchanges in both directions, integration."""

    config: DistConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, carry: tuple[jax.Array, jax.Array, jax.Array], feature: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], None]:
        """One layer.

        Args:
            carry: z [B, T, h, w, M], r [B, S, 1+N, C] and m' [B, S, 1+N, C] (not read) of the previous layer.
            feature: f_i, the residual stream after the CLIP block, [B, S, 1+N, D].

        Returns:
            (z', r, m') with the shapes of `carry`, and None (a scan's outputs).
        """
        c = self.config
        linear = partial(Linear, dtype=self.dtype)
        z, r, _ = carry
        num_prefix = r.shape[2] - z.shape[2] * z.shape[3]
        z = TemporalBlock(self.dtype, name="temporal")(z)
        m = linear(c.integration_width, name="input")(feature) + r  # [B, S, 1+N, C]
        # Both exchanges read the values from before the exchange.
        to_temporal = linear(c.temporal_width, name="to_temporal")(m[:, :, num_prefix:])  # [B, S, N, M]
        to_integration = self._to_integration(z, num_prefix)  # [B, S, 1+N, C]
        z = z + jnp.repeat(to_temporal, c.alpha, axis=1).reshape(z.shape)
        m = m + to_integration
        x = LayerNorm(self.dtype, name="ln")(m)
        r = Mlp(c.integration_width, quick_gelu, self.dtype, name="ffn")(x)
        r = r + TemporalFfn(self.dtype, name="temporal_ffn")(LayerNorm(self.dtype, name="ln_temporal")(m))
        return (z, r, m), None

    def _to_integration(self, z: jax.Array, num_prefix: int) -> jax.Array:
        """[B, T, h, w, M] -> [B, S, 1+N, C]: convolution (alpha,1,1) of stride alpha after a learned prefix token."""
        c = self.config
        grouped = z.reshape(z.shape[0], c.num_sparse_frames, c.alpha, -1, c.temporal_width)  # [B, S, alpha, N, M]
        conv = nn.DenseGeneral(
            c.integration_width, axis=(2, 4), dtype=self.dtype, kernel_init=TOKEN_INIT, name="to_integration"
        )
        patches = conv(grouped)  # [B, S, N, C]
        if not num_prefix:
            return patches
        token = self.param("class_token", TOKEN_INIT, (c.num_sparse_frames, c.integration_width)).astype(self.dtype)
        shape = (z.shape[0], c.num_sparse_frames, num_prefix, c.integration_width)
        return jnp.concatenate([jnp.broadcast_to(token[None, :, None], shape), patches], axis=2)


class CrossAttention(nn.Module):
    """Attention in which query, key and value share one LayerNorm; C / 64 heads."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, query: jax.Array, context: jax.Array) -> jax.Array:
        """Query [F, I, C] attends to context [F, J, C] -> [F, I, C]."""
        ln = LayerNorm(self.dtype, name="ln")
        return Attention(query.shape[-1] // 64, self.dtype, name="attention")(ln(query), ln(context))


class PoolingLayer(nn.Module):
    """A spatial query per frame attends to the frame's tokens; a video query attends to the spatial queries."""

    num_frames: int  # S
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, carry: tuple[jax.Array, jax.Array], y: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        """(s [B*S, 1, C], a [B, 1, C]), y [B*S, 1+N, C] -> (s, a), None."""
        s, a = carry
        width = y.shape[-1]
        s = s + CrossAttention(self.dtype, name="spatial")(s, y)
        s = s + self._mlp(s, "spatial")
        positions = self.param("positions", TOKEN_INIT, (self.num_frames, width)).astype(self.dtype)
        c = s.reshape(-1, self.num_frames, width) + positions[None]  # [B, S, C]
        a = a + CrossAttention(self.dtype, name="temporal")(a, c)
        a = a + self._mlp(a, "temporal")
        return (s, a), None

    def _mlp(self, x: jax.Array, name: str) -> jax.Array:
        x = LayerNorm(self.dtype, name=f"{name}_ln")(x)
        return Mlp(4 * x.shape[-1], quick_gelu, self.dtype, name=f"{name}_mlp")(x)
