"""The residual block of the temporal encoder: operations of XLA, or one kernel on TPUs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dist_jax.models import tpu_temporal_block
from dist_jax.models.convolutions import repeat_frames, spatial_conv, temporal_conv
from dist_jax.models.layers import KernelAndBias, LayerNormParameters, last_axis, quick_gelu, standardize
from dist_jax.models.tpu_temporal_kernels import BlockParams

# What the operations of XLA save for the backward pass, besides the "moments" of `standardize`.
SAVED_BY_TEMPORAL_BLOCK = ("conv_time", "sum")


class TemporalBlock(nn.Module):
    """Adds what the integration branch gives (x = z + it), then g(x + conv(1,3,3)(g(conv(3,1,1)(LN x))))."""

    num_frames: int  # T
    dtype: jnp.dtype
    device_kind: str  # see DistNetwork

    @nn.compact
    def __call__(self, z: jax.Array, to_temporal: jax.Array) -> jax.Array:
        """z [h, w, T * B, M], to_temporal [N, S * B, M] -> [h, w, T * B, M]."""
        width = z.shape[-1]
        norm = LayerNormParameters(width, name="ln")()
        time = KernelAndBias((3, width, width), (width,), self.dtype, name="conv_time")()
        space = KernelAndBias((3, 3, width, width), (width,), self.dtype, name="conv_space")()
        params = BlockParams(*norm, *time, *space)
        num_clips = z.shape[2] // self.num_frames
        if tpu_temporal_block.supports(self.device_kind, z, num_clips):
            return tpu_temporal_block.temporal_block(z, to_temporal, params, num_clips)
        return temporal_block(z, to_temporal, params, num_clips)


def temporal_block(z: jax.Array, to_temporal: jax.Array, params: BlockParams, num_clips: int) -> jax.Array:
    """`TemporalBlock` by operations of XLA.

    Args:
        z: [h, w, T * B, M].
        to_temporal: [N, S * B, M], added once per frame of the backbone.
        params: of the block.
        num_clips: B.

    Returns:
        The shape and dtype of z.
    """
    h, w, rows, width = z.shape
    sparse_frames = to_temporal.shape[1] // num_clips
    z = z + repeat_frames(to_temporal, sparse_frames, rows // to_temporal.shape[1]).reshape(z.shape)
    normal = standardize(z)
    x = normal * last_axis(params.scale, normal) + last_axis(params.bias, normal)
    x = x.astype(z.dtype).reshape(h * w, rows, width)  # [N, T * B, M]
    x = temporal_conv(x, params.time_kernel, params.time_bias, rows // num_clips)
    x = quick_gelu(checkpoint_name(x, "conv_time")).reshape(z.shape)
    x = spatial_conv(x, params.space_kernel, params.space_bias)
    return quick_gelu(checkpoint_name(z + x, "sum"))
