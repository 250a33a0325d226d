"""Training losses: softmax cross-entropy of soft targets, and sigmoid cross-entropy for several labels per clip."""

import jax
import jax.numpy as jnp
import optax


def smooth_labels(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Labels -> targets float32 [B, K]: smoothing / K for every class, plus 1 - smoothing for the labels.

    `labels` are class numbers int32 [B], or bool [B, K] if a clip has several.
    """
    hot = labels if labels.ndim == 2 else jax.nn.one_hot(labels, num_classes)
    return hot.astype(jnp.float32) * (1.0 - smoothing) + smoothing / num_classes


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Logits and soft targets, float32 [B, K] -> cross-entropy of each clip, float32 [B]."""
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)


def sigmoid_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Logits and targets (0 to 1), float32 [B, K] -> binary cross-entropy, mean over classes, float32 [B]."""
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, targets), axis=-1)


def is_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the best class is a label of the clip. Logits [B, K]; labels int32 [B] or bool [B, K] -> bool [B]."""
    best = jnp.argmax(logits, axis=-1)
    if labels.ndim == 1:
        return best == labels
    return jnp.take_along_axis(labels, best[:, None], axis=-1)[:, 0]
