"""From uint8 pixels to what CLIP was trained on; runs on the accelerator."""

import jax
import jax.numpy as jnp

# CLIP's channel statistics (OpenAI's released preprocessing), of pixels in 0..1.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def normalize(pixels: jax.Array, dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Pixels 0..255, uint8 or float [..., 3] -> zero mean, unit deviation by CLIP's statistics, in `dtype`."""
    as_rows = (1,) * (pixels.ndim - 1) + (3,)
    scale = jnp.asarray([1 / (255 * s) for s in STD], jnp.float32).reshape(as_rows)
    shift = jnp.asarray([-m / s for m, s in zip(MEAN, STD, strict=True)], jnp.float32).reshape(as_rows)
    return (pixels.astype(jnp.float32) * scale + shift).astype(dtype)


def grayscale(pixels: jax.Array, chosen: jax.Array) -> jax.Array:
    """Takes the colour from the chosen clips.

    Args:
        pixels: float [B, T, H, W, 3].
        chosen: bool [B].

    Returns:
        The same shape and dtype; all three channels of a chosen clip hold its luma (ITU-R 601, as torchvision's).
    """
    # No matrix product: accelerators would round the pixels for it, and keep them in memory.
    gray = sum(share * pixels[..., i : i + 1] for i, share in enumerate((0.2989, 0.587, 0.114)))  # [B, T, H, W, 1]
    return jnp.where(chosen[:, None, None, None, None], gray, pixels)


def color_jitter(pixels: jax.Array, factors: jax.Array) -> jax.Array:
    """Changes brightness, then contrast, then saturation of whole clips, as torchvision's functions of these names.

    Args:
        pixels: float [B, T, H, W, 3], 0 to 255.
        factors: float [B, 3], 1 leaves as it is.

    Returns:
        The same shape and dtype, 0 to 255.
    """
    brightness, contrast, saturation = (factors[:, i, None, None, None, None].astype(pixels.dtype) for i in range(3))
    pixels = jnp.clip(pixels * brightness, 0, 255)
    everything = jnp.ones(pixels.shape[0], bool)
    mean = jnp.mean(grayscale(pixels, everything), axis=(2, 3, 4), keepdims=True)  # [B, T, 1, 1, 1]
    pixels = jnp.clip(mean + contrast * (pixels - mean), 0, 255)
    gray = grayscale(pixels, everything)
    return jnp.clip(gray + saturation * (pixels - gray), 0, 255)
