"""Pixel normalisation with the statistics of the backbone's training. Runs on the accelerator."""

import jax
import jax.numpy as jnp


def normalize(
    pixels: jax.Array, mean: tuple[float, ...], std: tuple[float, ...], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """Normalises pixels by channel.

    Args:
        pixels: 0..255, uint8 or float [..., 3].
        mean: of each channel, for pixels 0..1.
        std: of each channel, for pixels 0..1.
        dtype: of the result.

    Returns:
        The same shape, in `dtype`.
    """
    channels = (1,) * (pixels.ndim - 1) + (3,)
    scale = jnp.asarray([1 / (255 * s) for s in std], jnp.float32).reshape(channels)
    shift = jnp.asarray([-m / s for m, s in zip(mean, std, strict=True)], jnp.float32).reshape(channels)
    return (pixels.astype(jnp.float32) * scale + shift).astype(dtype)
