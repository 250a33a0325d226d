"""Convolutions of the network and the image tower. Each operation has one function per kind of backend.

In the network, space and time are the leading axes, then clips, then channels: a shift along space moves whole tiles of
a TPU. Where an operation needs no single frames, frames and clips are one axis: few clips then also fill a tile. XLA
uses one core of a CPU for a convolution inside a loop, and all cores for matrix products.
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from dist_jax.models.layers import TOKEN_INIT, last_axis

Offsets = tuple[tuple[int, int], ...]  # rows and columns from a position to its neighbours


def patch_conv(frames: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution with stride p over patches of p x p pixels.

    Args:
        frames: [F, H, W, 3].
        kernel: [p, p, 3, width], in the dtype of `frames`.

    Returns:
        [h, w, F, width], h = H / p and w = W / p.
    """
    return jax.lax.platform_dependent(frames, kernel, cpu=_patch_products, default=_patch_convolution)


def _patch_convolution(frames: jax.Array, kernel: jax.Array) -> jax.Array:
    strides = kernel.shape[:2]
    return jax.lax.conv_general_dilated(
        frames, kernel, strides, "VALID", dimension_numbers=("NHWC", "HWIO", "HWNC")
    )  # [h, w, F, width]


def _patch_products(frames: jax.Array, kernel: jax.Array) -> jax.Array:
    patches = space_to_channels(frames, kernel.shape[0])  # [F, h, w, p * p * 3]
    products = jnp.dot(patches, kernel.reshape(-1, kernel.shape[-1]))  # [F, h, w, width]
    return products.transpose(1, 2, 0, 3)


def space_to_channels(frames: jax.Array, patch: int) -> jax.Array:
    """Frames [F, H, W, 3] -> their patches [F, h, w, patch * patch * 3], row by row; `patch` in pixels."""
    f, height, width, channels = frames.shape
    h, w = height // patch, width // patch
    patches = frames.reshape(f, h, patch, w, patch, channels).swapaxes(2, 3)  # [F, h, w, patch, patch, 3]
    return patches.reshape(f, h, w, patch * patch * channels)


class TemporalStem(nn.Module):
    """The published stem, a 3-D convolution: kernel (5, p, p), stride (1, p, p), padding (2, 0, 0)."""

    width: int
    patch_size: int  # p, pixels
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, video: jax.Array) -> jax.Array:
        """[B, T, H, W, 3] -> [h, w, T * B, width] in `dtype`."""
        b, t, p, width = *video.shape[:2], self.patch_size, self.width
        kernel = self.param("kernel", TOKEN_INIT, (5, p * p * 3, width))
        bias = self.param("bias", nn.initializers.zeros_init(), (width,))
        # One strided convolution computes the products of all five taps. They are shifted along time and added.
        kernel = kernel.astype(self.dtype).swapaxes(0, 1).reshape(p, p, 3, 5 * width)
        frames = video.astype(self.dtype).reshape(b * t, *video.shape[2:])
        taps = patch_conv(frames, kernel)  # [h, w, B*T, 5 * width]
        h, w = taps.shape[:2]
        taps = taps.reshape(h * w, b, t, -1).swapaxes(1, 2)  # [N, T, B, 5 * width]
        z = _add_shifted(taps, 5) + last_axis(bias.astype(self.dtype), taps)  # [N, T, B, width]
        return z.reshape(h, w, t * b, width)


def _add_shifted(taps: jax.Array, num_taps: int) -> jax.Array:
    """Adds the products of the taps, shifted along axis 1: [N, T, B, taps * width] -> [N, T, B, width]."""
    pad, frames, width = num_taps // 2, taps.shape[1], taps.shape[-1] // num_taps
    taps = jnp.pad(taps, [(0, 0), (pad, pad)] + [(0, 0)] * (taps.ndim - 2))
    shifted = [taps[:, k : k + frames, ..., k * width : (k + 1) * width] for k in range(num_taps)]
    return sum(shifted[1:], start=shifted[0])


def temporal_conv(x: jax.Array, kernel: jax.Array, bias: jax.Array, num_frames: int) -> jax.Array:
    """Convolution along time, zero-padded to keep the length.

    Args:
        x: [N, frames, B, in] or [N, frames * B, in].
        kernel: [3, in, width], in the dtype of x.
        bias: [width].
        num_frames: frames.

    Returns:
        The axes of x, with `width` channels.
    """
    products = partial(_time_products, num_frames)
    clips = math.prod(x.shape[1:-1]) // num_frames
    default = products if clips < TILE_ROWS else partial(_time_convolution, num_frames)
    y = jax.lax.platform_dependent(x, kernel, cpu=products, default=default)
    return y + last_axis(bias, y)


# Rows of a tile of a TPU. With fewer clips per device, a convolution along time moves time into the rows of the tiles,
# and pads it. A matrix product over the neighbours in time costs half of that. DistNetwork then also merges frames and
# clips into one axis.
TILE_ROWS = 8


def _time_convolution(num_frames: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    clips = x.reshape(x.shape[0], num_frames, -1, x.shape[-1])  # [N, frames, B, in]
    dimensions = jax.lax.ConvDimensionNumbers((2, 3, 0, 1), (3, 2, 0, 1), (2, 3, 0, 1))  # (B, channels, N, frames)
    y = jax.lax.conv_general_dilated(clips, kernel[None], (1, 1), ((0, 0), (1, 1)), dimension_numbers=dimensions)
    return y.reshape(*x.shape[:-1], -1)


def _time_products(num_frames: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    step = x.shape[1] // num_frames  # rows of axis 1 per frame
    return _neighbour_products(((0, -step), (0, 0), (0, step)), x, kernel)


def repeat_frames(x: jax.Array, num_frames: int, alpha: int) -> jax.Array:
    """Repeats each frame alpha times: [N, S, B, width] or [N, S * B, width] -> [N, S * alpha * B, width]."""
    frames = x.reshape(x.shape[0], num_frames, -1, x.shape[-1])  # [N, S, B, width]
    return jnp.concatenate([frames] * alpha, axis=2).reshape(x.shape[0], -1, x.shape[-1])


def spatial_conv(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Convolution over the patches of each frame, zero-padded to keep the grid.

    Args:
        x: [h, w, T * B, in].
        kernel: [3, 3, in, width], in the dtype of x.
        bias: [width].

    Returns:
        [h, w, T * B, width].
    """
    y = jax.lax.platform_dependent(x, kernel, cpu=_space_products, default=_space_convolution)
    return y + last_axis(bias, y)


def _space_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("HWNC", "HWIO", "HWNC"))


def _space_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    offsets = tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1))
    return _neighbour_products(offsets, x, kernel.reshape(len(offsets), *kernel.shape[2:]))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _neighbour_products(offsets: Offsets, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution as one matrix product.

    Args:
        offsets: of each tap along axes 0 and 1, increasing; offset k from the start is minus offset k from the end.
        x: [rows, columns, ..., in].
        kernel: [taps, in, width].

    Returns:
        [rows, columns, ..., width].
    """
    return jnp.dot(_neighbours(offsets, x), kernel.reshape(-1, kernel.shape[-1]))


def _neighbour_products_forward(
    offsets: Offsets, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _neighbour_products(offsets, x, kernel), (x, kernel)


def _neighbour_products_backward(
    offsets: Offsets, saved: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # Both gradients read the neighbours of `grad`. The gradient of x is the convolution with the flipped kernel.
    # Automatic differentiation would add up overlapping gradients of the neighbours of x, which takes longer.
    x, kernel = saved
    neighbours = _neighbours(offsets, grad)  # [rows, columns, ..., taps * width]
    flipped = kernel[::-1].swapaxes(1, 2)  # [taps, width, in]
    x_grad = jnp.dot(neighbours, flipped.reshape(-1, x.shape[-1]))
    products = jnp.einsum("...i,...o->io", x, neighbours, preferred_element_type=jnp.float32)  # [in, taps * width]
    kernel_grad = products.reshape(x.shape[-1], *flipped.shape[:2]).swapaxes(0, 1)[::-1]  # [taps, in, width]
    return x_grad, kernel_grad.astype(kernel.dtype)


_neighbour_products.defvjp(_neighbour_products_forward, _neighbour_products_backward)


def _neighbours(offsets: Offsets, x: jax.Array) -> jax.Array:
    """[rows, columns, ..., in] -> [rows, columns, ..., taps * in]: the values at each offset, 0 outside of x."""
    rows, columns = x.shape[:2]
    down, right = max(offsets)
    padded = jnp.pad(x, [(down, down), (right, right)] + [(0, 0)] * (x.ndim - 2))
    taps = [padded[down + i : down + i + rows, right + j : right + j + columns] for i, j in offsets]
    return jnp.concatenate(taps, axis=-1)
