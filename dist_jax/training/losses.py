"""The training loss: cross-entropy with soft, smoothed targets."""

import jax
import jax.numpy as jnp


def smooth_labels(label: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Class numbers int32 [B] -> targets float32 [B, K]: smoothing / K everywhere, plus 1 - smoothing on the label."""
    return jax.nn.one_hot(label, num_classes, dtype=jnp.float32) * (1.0 - smoothing) + smoothing / num_classes


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Logits and soft targets, float32 [B, K] -> cross-entropy of each clip, float32 [B]."""
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
