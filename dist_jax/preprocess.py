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
