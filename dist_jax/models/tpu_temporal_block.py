"""The residual block of the temporal encoder as one kernel of a TPU (Pallas), with its backward pass.

    x = z + to_temporal, repeated along time
    g(x + conv(1,3,3)(g(conv(3,1,1)(LN x))))

XLA runs the block as about ten passes over memory per direction, and copies z between two layouts: one for the
convolution along time, one for the convolution in space. A kernel reads z once and writes the result once. It goes down
the rows of the patch grid; what the next rows need stays in the chip's vector memory (`tpu_temporal_kernels`).

Symbols: see `dist_network`; grid h x w.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dist_jax.models.convolutions import TILE_ROWS, repeat_frames
from dist_jax.models.tpu_attention import LANES
from dist_jax.models.tpu_temporal_kernels import RING, BlockParams, backward_kernel, forward_kernel

MAX_ROWS = 2048  # w * R of one step with several groups of clips, unless TILE_ROWS clips need more
VMEM_LIMIT_BYTES = 48 * 2**20
# Rows times channels (whole tiles) of one step, at most. A larger kernel compiles for minutes.
MAX_STEP_SIZE = 4096 * LANES
MAX_CHANNELS = 2 * LANES  # the gradients of the parameters stay in vector memory: 144 M^2 bytes with the parameters

# jax.Device.device_kind of the chips with enough vector memory (a v4 has 16 MiB) for which the kernel was compiled.
DEVICE_KINDS = ("TPU v5 lite", "TPU v5e", "TPU v5", "TPU v5p", "TPU v6 lite", "TPU v6e")


def supports(device_kind: str, z: jax.Array, num_clips: int) -> bool:
    """Whether `temporal_block` runs on these devices. Arguments as there."""
    rows_per_clip = z.shape[1] * z.shape[2] // num_clips
    channels = _whole_tiles(z)
    step_size = rows_per_clip * clips_per_group(num_clips, rows_per_clip) * channels
    fits = step_size <= MAX_STEP_SIZE and channels <= MAX_CHANNELS
    return fits and device_kind in DEVICE_KINDS and z.dtype == jnp.bfloat16


def temporal_block(
    z: jax.Array, to_temporal: jax.Array, params: BlockParams, num_clips: int, interpret: bool = False
) -> jax.Array:
    """The block.

    Args:
        z: [h, w, T * B, M], frames before clips.
        to_temporal: [N, S * B, M], added to z first, once per frame of the backbone.
        params: of the block.
        num_clips: B.
        interpret: run the kernel as a JAX program, on any device.

    Returns:
        The shape and dtype of z.
    """
    rows, added_rows = z.shape[2], to_temporal.shape[1]
    if num_clips % TILE_ROWS:  # the kernel repeats only whole tiles
        to_temporal = repeat_frames(to_temporal, added_rows // num_clips, rows // added_rows)
    return _block(z, to_temporal, params, num_clips, interpret)


_Saved = tuple[jax.Array, jax.Array, BlockParams]


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _block(z: jax.Array, to_temporal: jax.Array, params: BlockParams, num_clips: int, interpret: bool) -> jax.Array:
    return _forward(z, to_temporal, params, num_clips, interpret)[0]


def _forward(
    z: jax.Array, to_temporal: jax.Array, params: BlockParams, num_clips: int, interpret: bool
) -> tuple[jax.Array, _Saved]:
    matrices, steps = _with_three_axes(params), _Steps(z, to_temporal, num_clips)
    output = pl.pallas_call(
        partial(forward_kernel, h=steps.h, group=steps.group),
        grid=(steps.num_groups, steps.h + 1),
        in_specs=[steps.z_row(0), steps.added_row(0), *_whole(matrices)],
        out_specs=steps.z_row(1),
        out_shape=jax.ShapeDtypeStruct(steps.z_shape, z.dtype),
        scratch_shapes=[steps.ring] * 2,
        cost_estimate=_cost(z, products=1, arrays=2),
        compiler_params=_COMPILER,
        interpret=interpret,
    )(z.reshape(steps.z_shape), to_temporal.reshape(steps.added_shape), *matrices)
    return output.reshape(z.shape), (z, to_temporal, params)


def _backward(num_clips: int, interpret: bool, saved: _Saved, grad: jax.Array) -> _Saved:
    z, to_temporal, params = saved
    matrices, steps = _with_three_axes(params), _Steps(z, to_temporal, num_clips)
    z_grad, added_grad, *param_grads = pl.pallas_call(
        partial(backward_kernel, h=steps.h, group=steps.group),
        grid=(steps.num_groups, steps.h + 2),
        in_specs=[steps.z_row(0), steps.added_row(0), steps.z_row(1), *_whole(matrices)],
        out_specs=[steps.z_row(2), steps.added_row(2), *_whole(matrices)],
        out_shape=[
            jax.ShapeDtypeStruct(steps.z_shape, z.dtype),
            jax.ShapeDtypeStruct(steps.added_shape, z.dtype),
            *(jax.ShapeDtypeStruct(matrix.shape, jnp.float32) for matrix in matrices),
        ],
        scratch_shapes=[steps.ring] * 4,
        cost_estimate=_cost(z, products=3, arrays=3),
        compiler_params=_COMPILER,
        interpret=interpret,
    )(z.reshape(steps.z_shape), to_temporal.reshape(steps.added_shape), grad.reshape(steps.z_shape), *matrices)
    param_grads = [new.reshape(old.shape).astype(old.dtype) for new, old in zip(param_grads, params, strict=True)]
    return z_grad.reshape(z.shape), added_grad.reshape(to_temporal.shape), BlockParams(*param_grads)


_block.defvjp(_forward, _backward)

# The steps run in order: they share the rings, and add to the gradients of the parameters.
_COMPILER = pltpu.CompilerParams(dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=VMEM_LIMIT_BYTES)


class _Steps:
    """The steps of a kernel: groups of clips, then rows of the patch grid.

    The kernels see z as `z_shape`, [h, w, frames, clips, M]. Clips that do not fill tiles are one group, with frames
    and clips in one axis.
    """

    def __init__(self, z: jax.Array, to_temporal: jax.Array, num_clips: int) -> None:
        self.h, self.w, rows, width = z.shape
        added_rows = to_temporal.shape[1]
        self.group = clips_per_group(num_clips, self.w * rows // num_clips)
        self.num_groups = num_clips // self.group
        clips = rows if num_clips % TILE_ROWS else num_clips
        self.z_shape = (self.h, self.w, rows // clips, clips, width)
        self.added_shape = (self.h, self.w, added_rows // clips, clips, width)
        self._clips_per_block = clips // self.num_groups
        # Two more columns are the borders of the patch grid.
        self.ring = pltpu.VMEM((RING, self.w + 2, rows // self.num_groups, width), z.dtype)

    def z_row(self, delay: int) -> pl.BlockSpec:
        """In step s, row s - `delay` of the patch grid; the first or last row if there is no such row."""
        return self._row(self.z_shape, delay)

    def added_row(self, delay: int) -> pl.BlockSpec:
        """As `z_row`, of an array with the frames of the backbone."""
        return self._row(self.added_shape, delay)

    def _row(self, shape: tuple[int, ...], delay: int) -> pl.BlockSpec:
        block = (1, *shape[1:3], self._clips_per_block, shape[4])
        return pl.BlockSpec(block, lambda group, step: (jnp.clip(step - delay, 0, self.h - 1), 0, 0, group, 0))


def clips_per_group(num_clips: int, rows_per_clip: int) -> int:
    """Clips in one step of the kernel: as many whole tiles of clips as MAX_ROWS hold, at least one; a divisor of B.

    Args:
        num_clips: B. All clips are one group if they do not fill whole tiles.
        rows_per_clip: w * T.
    """
    if num_clips % TILE_ROWS:
        return num_clips
    possible = [n for n in range(TILE_ROWS, num_clips + 1, TILE_ROWS) if num_clips % n == 0]
    return max((n for n in possible if n * rows_per_clip <= MAX_ROWS), default=TILE_ROWS)


def _with_three_axes(params: BlockParams) -> BlockParams:
    """Vectors [M] -> [1, 1, M]."""
    return BlockParams(*(param.reshape(1, 1, -1) if param.ndim == 1 else param for param in params))


def _whole(params: BlockParams) -> list[pl.BlockSpec]:
    """Every step reads (or adds to) the whole array of every parameter."""
    return [pl.BlockSpec(param.shape, partial(_origin, param.ndim)) for param in params]


def _origin(rank: int, *_: jax.Array) -> tuple[int, ...]:
    return (0,) * rank


def _cost(z: jax.Array, products: int, arrays: int) -> pl.CostEstimate:
    """Operations as the chip executes them: `products` times 12 products per row with whole tiles of channels."""
    rows, width = z.size // z.shape[-1], _whole_tiles(z)
    return pl.CostEstimate(
        flops=products * 2 * 12 * rows * width * width,
        bytes_accessed=arrays * rows * width * z.dtype.itemsize,
        transcendentals=products * 2 * rows * width,
    )


def _whole_tiles(z: jax.Array) -> int:
    """M, padded to whole tiles."""
    return -(-z.shape[-1] // LANES) * LANES
