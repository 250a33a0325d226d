"""AdamW and its schedule, as published: who is decayed, and how fast things go at which epoch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import optax

# Decay groups by the last name of a parameter's path. "No decay on biases, 1-D parameters, tokens and positions" (the
# released optimizer); a name that is in neither group, or in both, fails at start-up.
DECAYED = frozenset({"kernel", "proj"})
NOT_DECAYED = frozenset({"bias", "scale", "class_token", "positions", "spatial_query", "video_query"})


def learning_rate(epoch: jax.Array | float, epochs: float, settings: ml_collections.ConfigDict) -> jax.Array:
    """The rate at a fractional epoch.

    Args:
        epoch: passes over the training records so far, float [].
        epochs: length of the training.
        settings: config.optimizer.

    Returns:
        float32 []: a cosine from `learning_rate` at epoch 0 to `final_rate` at the end, whose first `warmup_epochs` are
        replaced by a line from `warmup_rate` to the cosine's value where the line ends.
    """

    def cosine(at: jax.Array | float) -> jax.Array:
        half = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(at / epochs, 1.0)))
        return settings.min_lr + (settings.learning_rate - settings.min_lr) * half

    warmup = settings.warmup_epochs
    line = settings.warmup_init_lr + (cosine(warmup) - settings.warmup_init_lr) * epoch / max(warmup, 1e-9)
    return jnp.where(epoch < warmup, line, cosine(epoch)).astype(jnp.float32)


def decay_rates(params: dict, rate: float) -> dict:
    """The weight decay of each parameter: a tree like `params` of float32 [] or broadcastable arrays.

    The last layer's integration-to-temporal linear never reaches the output, so the published optimizer, which skips
    parameters without a gradient, leaves it alone; so does this one.

    Raises:
        ValueError: for a parameter that belongs to no decay group.
    """

    def of(path: tuple, leaf: jax.Array) -> jax.Array:
        names = [key.key for key in path]
        if (names[-1] in DECAYED) == (names[-1] in NOT_DECAYED):
            raise ValueError(f"parameter {'/'.join(names)} must be in exactly one decay group of optimizer.py")
        if names[-1] in NOT_DECAYED:
            return jnp.zeros(())
        if "to_temporal" in names:
            reached = jnp.arange(leaf.shape[0]) < leaf.shape[0] - 1  # [L_selected]
            return jnp.where(reached, rate, 0.0).reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.asarray(rate, jnp.float32)

    return jax.tree_util.tree_map_with_path(of, params)


def lr_schedule(
    settings: ml_collections.ConfigDict, epochs: float, epochs_per_step: float
) -> Callable[[jax.Array | int], jax.Array]:
    """The rate, float32 [], of the step that follows so many steps, by the fractional epoch.

    Args:
        settings: config.optimizer.
        epochs: length of the training.
        epochs_per_step: clips of a step / training records.
    """

    def rate(step: jax.Array | int) -> jax.Array:
        return learning_rate(jnp.asarray(step, jnp.float32) * epochs_per_step, epochs, settings)

    return rate


def make_optimizer(settings: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """AdamW without its rate: gradients -> what `update` goes against. `settings` is config.optimizer."""

    def decay(updates: dict, params: dict) -> dict:
        rates = decay_rates(params, settings.weight_decay)
        return jax.tree.map(lambda update, param, of: update + of * param, updates, params, rates)

    return optax.chain(
        optax.clip_by_global_norm(settings.grad_clip_norm) if settings.grad_clip_norm > 0 else optax.identity(),
        optax.scale_by_adam(settings.beta1, settings.beta2, settings.eps),
        optax.stateless(decay),
    )


def update(
    optimizer: optax.GradientTransformation, rate: jax.Array, grads: dict, opt_state: optax.OptState, params: dict
) -> tuple[dict, optax.OptState]:
    """One step of `make_optimizer`'s optimizer at `rate`, float32 []: the next parameters and optimizer state."""
    directions, opt_state = optimizer.update(grads, opt_state, params)
    return jax.tree.map(lambda param, direction: param - rate * direction, params, directions), opt_state
