"""Attention as one kernel of a TPU (Pallas), without gradients: scores and weights stay in a chip's vector memory.

XLA writes the scores of all frames to memory, reads them for the maximum, for the sum and for the product with the
values, and copies query, key and value into a layout with an axis of heads.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dist_jax.models.rotary import Rotary

LANES = 128  # of a tile; one product of the kernel computes the heads of one tile
# Bytes that a kernel may use: all of a v4; the default of libtpu 0.0.42 on v5e and v5p, which is less than on v6e.
VECTOR_MEMORY = 16 * 2**20


def supports(q: jax.Array, head_dim: int, num_head_shards: int, rotates: bool = False) -> bool:
    """Whether `attend` can compute this attention: bfloat16, whole heads in every tile, and a tile fits into memory."""
    *_, num_tokens, width = q.shape
    width, unsplit = divmod(width, num_head_shards)
    if q.dtype != jnp.bfloat16 or unsplit or width % LANES or LANES % head_dim:
        return False
    mixed_bytes = 4 * num_tokens * LANES  # extra memory only in a step of one tile (libtpu 0.0.42)
    return tile_bytes(num_tokens, head_dim, rotates) + mixed_bytes <= VECTOR_MEMORY


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, head_dim: int, rotary: Rotary | None = None, interpret: bool = False
) -> jax.Array:
    """Softmax attention of each head, bfloat16; softmax in float32.

    Args:
        q: scaled queries [..., N, width], head after head.
        k: keys of the same shape.
        v: values of the same shape.
        head_dim: width of a head, a divisor of LANES.
        rotary: rotates queries and keys, here because shifts of channels by XLA would be written to memory.
        interpret: run the kernel as a JAX program, on any device.

    Returns:
        [..., N, width].
    """
    *leading, num_tokens, width = q.shape
    q, k, v = (x.reshape(-1, num_tokens, width) for x in (q, k, v))  # [F, N, width]
    lanes = lanes_per_step(num_tokens, width, head_dim, rotates=rotary is not None)
    block = pl.BlockSpec((1, num_tokens, lanes), lambda frame, group: (frame, 0, group))
    tables = [np.tile(table, LANES // head_dim) for table in rotary.tables(head_dim)] if rotary else []  # [N, LANES]
    table_block = pl.BlockSpec((num_tokens, LANES), lambda frame, group: (0, 0))
    out = pl.pallas_call(
        partial(_kernel, head_dim=head_dim),
        grid=(len(q), width // lanes),
        in_specs=[block] * 3 + [table_block] * len(tables),
        out_specs=block,
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        cost_estimate=_cost(len(q), num_tokens, width, head_dim),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        interpret=interpret,
    )(q, k, v, *tables)
    return out.reshape(*leading, num_tokens, width)


def lanes_per_step(num_tokens: int, width: int, head_dim: int, rotates: bool = False) -> int:
    """Channels in one step of the kernel: as many tiles as VECTOR_MEMORY holds, at least one, a divisor of `width`."""
    tiles = width // LANES
    most = VECTOR_MEMORY // tile_bytes(num_tokens, head_dim, rotates)
    return LANES * next((n for n in range(min(tiles, most), 0, -1) if tiles % n == 0), 1)


def tile_bytes(num_tokens: int, head_dim: int, rotates: bool = False) -> int:
    """Vector memory that one tile of a step needs.

    Query, key, value and output in bfloat16, twice: the next step is loaded in the meantime. A kernel that rotates
    needs as much again for the tables and the float32 values. The scores of every head in float32, each with its own
    memory: the compiler computes the heads of all tiles of a step side by side.
    """
    blocks = 2 * 4 * 2 * num_tokens * LANES
    scores = LANES // head_dim * num_tokens * _padded(num_tokens) * 4
    return (2 * blocks if rotates else blocks) + scores


def _kernel(q_ref: jax.Ref, k_ref: jax.Ref, v_ref: jax.Ref, *refs: jax.Ref, head_dim: int) -> None:
    """One frame: [1, N, lanes]. `refs` are the tables of the rotary positions [N, LANES], if any, and the output."""
    *tables, out_ref = refs
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
    for start in range(0, q_ref.shape[-1], LANES):
        tile = pl.ds(start, LANES)
        q, k, v = q_ref[0, :, tile], k_ref[0, :, tile], v_ref[0, :, tile]  # [N, LANES]
        if tables:
            q, k = _rotate(q, lane, *tables), _rotate(k, lane, *tables)
        mixed = jnp.zeros(q.shape, jnp.float32)
        for first in range(0, LANES, head_dim):
            # A product with the channels of other heads set to 0 takes as long as one of a head's channels: the matrix
            # unit works on whole tiles. So no channels are moved.
            in_head = (lane >= first) & (lane < first + head_dim)  # [1, LANES]
            scores = jax.lax.dot_general(
                jnp.where(in_head, q, jnp.zeros_like(q)),
                k,
                (((1,), (1,)), ((), ())),
                preferred_element_type=jnp.float32,
            )  # [N, N]
            weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
            total = jnp.sum(weights, axis=-1, keepdims=True)  # [N, 1]
            values = jnp.dot(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)  # [N, LANES]
            mixed = jnp.where(in_head, values / total, mixed)
        out_ref[0, :, tile] = mixed.astype(out_ref.dtype)


def _rotate(x: jax.Array, lane: jax.Array, cos: jax.Ref, sin: jax.Ref) -> jax.Array:
    """`Rotary` of the heads in one tile [N, LANES]."""
    y = x.astype(jnp.float32)
    turned = jnp.where(lane % 2 == 0, -pltpu.roll(y, LANES - 1, 1), pltpu.roll(y, 1, 1))  # (a, b) -> (-b, a)
    return (y * cos[...] + turned * sin[...]).astype(x.dtype)


def _cost(num_frames: int, num_tokens: int, width: int, head_dim: int) -> pl.CostEstimate:
    """Operations as the chip executes them: products with whole tiles of LANES tokens and channels."""
    padded = _padded(num_tokens)
    num_heads = width // head_dim
    return pl.CostEstimate(
        flops=4 * num_frames * num_heads * num_tokens * padded * LANES,
        bytes_accessed=8 * num_frames * num_tokens * width,
        transcendentals=num_frames * num_heads * num_tokens * padded,
    )


def _padded(num_tokens: int) -> int:
    """Tokens of whole tiles."""
    return -(-num_tokens // LANES) * LANES
