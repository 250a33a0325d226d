"""The residual block of the temporal encoder: operations of XLA, or one kernel on TPUs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dist_jax.models import tpu_temporal_block
from dist_jax.models.convolutions import spatial_conv, temporal_conv
from dist_jax.models.layers import KernelAndBias, LayerNormParameters, last_axis, quick_gelu, standardize
from dist_jax.models.tpu_temporal_block import BlockParams

# What a block saves for its backward pass: without the kernel, the outputs of the convolutions ("moments" are those of
# `standardize`); with it, the output, which the next operations of the layer read.
SAVED_BY_TEMPORAL_BLOCK = ("conv_time", "sum", "temporal")


class TemporalBlock(nn.Module):
    """g(z + conv(1,3,3)(g(conv(3,1,1)(LN z))))."""

    num_frames: int  # T
    dtype: jnp.dtype
    device_kind: str  # see DistNetwork

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """[h, w, T * B, M] -> [h, w, T * B, M]."""
        width = z.shape[-1]
        norm = LayerNormParameters(width, name="ln")()
        time = KernelAndBias((3, width, width), (width,), self.dtype, name="conv_time")()
        space = KernelAndBias((3, 3, width, width), (width,), self.dtype, name="conv_space")()
        params = BlockParams(*norm, *time, *space)
        if tpu_temporal_block.supports(self.device_kind, self.dtype):
            return checkpoint_name(tpu_temporal_block.temporal_block(z, params, self.num_frames), "temporal")
        return temporal_block(z, params, self.num_frames)


def temporal_block(z: jax.Array, params: BlockParams, num_frames: int) -> jax.Array:
    """The block by operations of XLA: [h, w, T * B, M] -> [h, w, T * B, M]."""
    h, w, _, width = z.shape
    normal = standardize(z)
    x = normal * last_axis(params.scale, normal) + last_axis(params.bias, normal)
    x = x.astype(z.dtype).reshape(h * w, -1, width)  # [N, T * B, M]
    x = checkpoint_name(temporal_conv(x, params.time_kernel, params.time_bias, num_frames), "conv_time")
    x = spatial_conv(quick_gelu(x).reshape(z.shape), params.space_kernel, params.space_bias)
    return quick_gelu(checkpoint_name(z + x, "sum"))
