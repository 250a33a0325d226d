"""The kernels of `tpu_temporal_block`: what one step computes.

A step sees one row of the patch grid, of a group of clips. It stores what the convolution in space needs of the row in
rings: scratch arrays [RING, w + 2, R, M] with the last rows. Columns 0 and w + 1 are the borders of the grid.

Symbols: grid h x w; M channels; R rows of an array per patch: all frames of the group, frames before clips.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from dist_jax.models.layers import quick_gelu

EPS = 1e-5  # of the LayerNorm
RING = 3  # rows of the patch grid that a convolution of height 3 reads
_TAPS = [(i, j) for i in range(3) for j in range(3)]  # of the convolution in space


class BlockParams(NamedTuple):
    """The parameters of a block. In the kernels, vectors have the shape [1, 1, M]."""

    scale: jax.Array  # of the LayerNorm, [M]
    bias: jax.Array  # of the LayerNorm, [M]
    time_kernel: jax.Array  # [3, M, M]
    time_bias: jax.Array  # [M]
    space_kernel: jax.Array  # [3, 3, M, M]
    space_bias: jax.Array  # [M]


def forward_kernel(z_ref: jax.Ref, added_ref: jax.Ref, *refs: jax.Ref, h: int, group: int) -> None:
    """Step s computes the hidden values of row s, and the output of row s - 1."""
    params, (out_ref, z_ring, hidden_ring) = BlockParams._make(refs[:6]), refs[6:]
    step = pl.program_id(1)

    @pl.when(step == 0)
    def _() -> None:
        hidden_ring[...] = jnp.zeros_like(hidden_ring)  # the borders of the grid

    @pl.when(step < h)
    def _() -> None:
        z = _load_sum(z_ref, added_ref)
        _put(z_ring, step, z)
        _put(hidden_ring, step, quick_gelu(_normalized_time_conv(z, params, group)))

    @pl.when(step == h)
    def _() -> None:
        _put_zeros(hidden_ring, step)

    @pl.when(step > 0)
    def _() -> None:
        _store_block(out_ref, quick_gelu(_sum(z_ring, hidden_ring, params, step - 1)))


def backward_kernel(z_ref: jax.Ref, added_ref: jax.Ref, grad_ref: jax.Ref, *refs: jax.Ref, h: int, group: int) -> None:
    """Step s computes the hidden values of row s, the gradient of the sum in row s - 1, and that of z in row s - 2."""
    params, (z_grad_ref, added_grad_ref), grads = BlockParams._make(refs[:6]), refs[6:8], BlockParams._make(refs[8:14])
    z_ring, time_ring, hidden_ring, sum_grad_ring = refs[14:]
    step = pl.program_id(1)

    @pl.when((pl.program_id(0) == 0) & (step == 0))
    def _() -> None:
        for ref in grads:
            ref[...] = jnp.zeros_like(ref)

    @pl.when(step == 0)
    def _() -> None:
        hidden_ring[...] = jnp.zeros_like(hidden_ring)  # the borders of the grid
        sum_grad_ring[...] = jnp.zeros_like(sum_grad_ring)

    @pl.when(step < h)
    def _() -> None:
        z = _load_sum(z_ref, added_ref)
        _put(z_ring, step, z)
        time = _normalized_time_conv(z, params, group)
        _put(time_ring, step, time)
        _put(hidden_ring, step, quick_gelu(time))

    @pl.when(step == h)
    def _() -> None:
        _put_zeros(hidden_ring, step)

    @pl.when((step > 0) & (step <= h))
    def _() -> None:
        row = step - 1
        sum_grad = _load_block(grad_ref) * _quick_gelu_slope(_sum(z_ring, hidden_ring, params, row))
        _put(sum_grad_ring, row, sum_grad)
        _add_space_grads(grads, hidden_ring, sum_grad, row)

    @pl.when(step == h + 1)
    def _() -> None:
        _put_zeros(sum_grad_ring, step - 1)

    @pl.when(step > 1)
    def _() -> None:
        row = step - 2
        time_grad = _hidden_grad(sum_grad_ring, params, row) * _quick_gelu_slope(_get(time_ring, row))
        z_grad = _time_and_norm_backward(grads, params, _get(z_ring, row), time_grad, group, z_ring.dtype)
        z_grad += _get(sum_grad_ring, row)
        _store_block(z_grad_ref, z_grad)
        frames, *shape = added_grad_ref.shape[2:]
        _store_block(added_grad_ref, jnp.sum(z_grad.reshape(z_grad.shape[0], frames, -1, *shape), axis=2))


def _sum(z_ring: jax.Ref, hidden_ring: jax.Ref, params: BlockParams, row: jax.Array) -> jax.Array:
    """z + convolution in space of the hidden values: float32 [w, R, M]."""
    total = _get(z_ring, row) + params.space_bias[...].astype(jnp.float32)
    for i, j in _TAPS:
        total += _product(_window(hidden_ring, row + i - 1, j), params.space_kernel[i, j])
    return total


def _add_space_grads(grads: BlockParams, hidden_ring: jax.Ref, sum_grad: jax.Array, row: jax.Array) -> None:
    """Adds what a row contributes to the gradients of the convolution in space."""
    grads.space_bias[...] += _sum_rows(sum_grad)
    sum_grad = sum_grad.astype(hidden_ring.dtype)
    for i, j in _TAPS:
        grads.space_kernel[i, j] += _outer(_window(hidden_ring, row + i - 1, j), sum_grad)


def _hidden_grad(sum_grad_ring: jax.Ref, params: BlockParams, row: jax.Array) -> jax.Array:
    """The gradient of the hidden values, by the convolution with the flipped kernel: float32 [w, R, M]."""
    taps = [_product_t(_window(sum_grad_ring, row + 1 - i, 2 - j), params.space_kernel[i, j]) for i, j in _TAPS]
    return sum(taps[1:], start=taps[0])


def _time_and_norm_backward(
    grads: BlockParams, params: BlockParams, z: jax.Array, time_grad: jax.Array, group: int, dtype: jnp.dtype
) -> jax.Array:
    """Adds to the gradients of the convolution along time and the LayerNorm; returns that of z, float32 [w, R, M]."""
    normal, inverse_std = _standardize(z)
    x = _affine(normal, params).astype(dtype)
    grads.time_bias[...] += _sum_rows(time_grad)
    time_grad = time_grad.astype(dtype)
    x_grad = jnp.zeros(z.shape, jnp.float32)
    for tap in range(3):
        grads.time_kernel[tap] += _outer(_in_time(x, tap - 1, group), time_grad)
        x_grad += _product_t(_in_time(time_grad, 1 - tap, group), params.time_kernel[tap])
    grads.scale[...] += _sum_rows(x_grad * normal)
    grads.bias[...] += _sum_rows(x_grad)
    normal_grad = x_grad * params.scale[...].astype(jnp.float32)
    return inverse_std * (normal_grad - _mean(normal_grad) - normal * _mean(normal_grad * normal))


def _normalized_time_conv(z: jax.Array, params: BlockParams, group: int) -> jax.Array:
    """LayerNorm, then the convolution along time: [w, R, M] -> float32 [w, R, M]."""
    x = _affine(_standardize(z)[0], params).astype(params.time_kernel.dtype)
    taps = [_product(_in_time(x, tap - 1, group), params.time_kernel[tap]) for tap in range(3)]
    return sum(taps[1:], start=taps[0]) + params.time_bias[...].astype(jnp.float32)


def _in_time(x: jax.Array, frames: int, group: int) -> jax.Array:
    """Frame t of the result is frame t + `frames` (-1, 0 or 1) of x [w, R, M]; zeros outside."""
    zeros = jnp.zeros((x.shape[0], group, x.shape[2]), x.dtype)
    if frames == 0:
        return x
    return jnp.concatenate([zeros, x[:, :-group]] if frames < 0 else [x[:, group:], zeros], axis=1)


def _standardize(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Zero mean and unit variance over the channels, and the factor of the division: [w, R, M], [w, R, 1]."""
    mean = _mean(z)
    inverse_std = jax.lax.rsqrt(jnp.maximum(_mean(z * z) - mean * mean, 0.0) + EPS)
    return (z - mean) * inverse_std, inverse_std


def _affine(normal: jax.Array, params: BlockParams) -> jax.Array:
    return normal * params.scale[...].astype(jnp.float32) + params.bias[...].astype(jnp.float32)


def _quick_gelu_slope(x: jax.Array) -> jax.Array:
    gate = jax.nn.sigmoid(1.702 * x)
    return gate * (1.0 + 1.702 * x * (1.0 - gate))


def _mean(x: jax.Array) -> jax.Array:
    return jnp.mean(x, axis=-1, keepdims=True)


def _sum_rows(x: jax.Array) -> jax.Array:
    """[w, R, M] -> [1, 1, M]."""
    return jnp.sum(x, axis=(0, 1), keepdims=True)


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[w, R, in] @ [in, out] -> float32 [w, R, out]."""
    return jnp.dot(_flat(x), kernel, preferred_element_type=jnp.float32).reshape(*x.shape[:-1], -1)


def _product_t(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[w, R, out] @ [in, out]^T -> float32 [w, R, in]."""
    contracted = (((1,), (1,)), ((), ()))
    y = jax.lax.dot_general(_flat(x), kernel, contracted, preferred_element_type=jnp.float32)
    return y.reshape(*x.shape[:-1], -1)


def _outer(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sum over the rows of [w, R, in] and [w, R, out] -> float32 [in, out]."""
    contracted = (((0,), (0,)), ((), ()))
    return jax.lax.dot_general(_flat(x), _flat(y), contracted, preferred_element_type=jnp.float32)


def _load_sum(z_ref: jax.Ref, added_ref: jax.Ref) -> jax.Array:
    """A row of z plus one of the array with the frames of the backbone, float32 [w, R, M]."""
    _, columns, frames, *shape = added_ref.shape
    z = z_ref[0].astype(jnp.float32).reshape(columns, frames, -1, *shape)  # [w, S, alpha, clips, M]
    return (z + added_ref[0].astype(jnp.float32)[:, :, None]).reshape(columns, -1, shape[-1])


def _load_block(ref: jax.Ref) -> jax.Array:
    """A row of the patch grid, [1, w, frames, clips, M] -> float32 [w, R, M]."""
    return ref[0].astype(jnp.float32).reshape(ref.shape[1], -1, ref.shape[-1])


def _store_block(ref: jax.Ref, values: jax.Array) -> None:
    ref[0] = values.reshape(ref.shape[1:]).astype(ref.dtype)


def _put(ring: jax.Ref, row: jax.Array, values: jax.Array) -> None:
    """Stores a row of the grid, [w, R, M]."""
    ring[(row + RING) % RING, 1:-1] = values.astype(ring.dtype)


def _put_zeros(ring: jax.Ref, row: jax.Array) -> None:
    _, columns, *shape = ring.shape
    _put(ring, row, jnp.zeros((columns - 2, *shape), ring.dtype))


def _get(ring: jax.Ref, row: jax.Array) -> jax.Array:
    """A stored row, float32 [w, R, M]."""
    return ring[(row + RING) % RING, 1:-1].astype(jnp.float32)


def _window(ring: jax.Ref, row: jax.Array, first: int) -> jax.Array:
    """w columns of a stored row from column `first` of the ring on, [w, R, M]."""
    return ring[(row + RING) % RING, pl.ds(first, ring.shape[1] - 2)]
