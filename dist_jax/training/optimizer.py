"""The published AdamW: weight-decay mask and learning-rate schedule."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import optax

# Weight decay by the last name of a parameter's path: none on biases, 1-D parameters, tokens and positions (as in the
# published optimizer). A name in neither or both of the sets is an error at start-up.
DECAYED = frozenset({"kernel", "proj"})
NOT_DECAYED = frozenset({"bias", "scale", "class_token", "positions", "spatial_query", "video_query"})


def learning_rate(epoch: jax.Array | float, num_epochs: float, settings: ml_collections.ConfigDict) -> jax.Array:
    """Learning rate at a fractional epoch.

    Args:
        epoch: completed passes over the training records, float [].
        num_epochs: length of the training.
        settings: config.optimizer.

    Returns:
        float32 []: a cosine from `learning_rate` at epoch 0 to `min_lr` at the end. The first `warmup_epochs` are
        replaced by a line from `warmup_init_lr` to the value of the cosine at `warmup_epochs`.
    """

    def cosine(epoch: jax.Array | float) -> jax.Array:
        factor = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(epoch / num_epochs, 1.0)))
        return settings.min_lr + (settings.learning_rate - settings.min_lr) * factor

    warmup = settings.warmup_epochs
    line = settings.warmup_init_lr + (cosine(warmup) - settings.warmup_init_lr) * epoch / max(warmup, 1e-9)
    return jnp.where(epoch < warmup, line, cosine(epoch)).astype(jnp.float32)


def lr_schedule(
    settings: ml_collections.ConfigDict, num_epochs: float, epochs_per_step: float
) -> Callable[[jax.Array | int], jax.Array]:
    """Learning rate, float32 [], after `step` completed updates.

    Args:
        settings: config.optimizer.
        num_epochs: length of the training.
        epochs_per_step: batch size / number of training records.
    """

    def schedule(step: jax.Array | int) -> jax.Array:
        return learning_rate(jnp.asarray(step, jnp.float32) * epochs_per_step, num_epochs, settings)

    return schedule


def weight_decays(params: dict, weight_decay: float) -> dict:
    """The weight decay of each parameter: a tree like `params` of float32 [] or broadcastable arrays.

    It is 0 on the integration-to-temporal linear of the last layer, which never reaches the output: the published
    optimizer skips parameters without a gradient.

    Raises:
        ValueError: a parameter is in neither or both of DECAYED and NOT_DECAYED.
    """

    def decay_of(path: tuple, leaf: jax.Array) -> jax.Array:
        names = [key.key for key in path]
        if (names[-1] in DECAYED) == (names[-1] in NOT_DECAYED):
            raise ValueError(
                f"parameter {'/'.join(names)}: {names[-1]!r} must be in exactly one of DECAYED and NOT_DECAYED of "
                "training/optimizer.py"
            )
        if names[-1] in NOT_DECAYED:
            return jnp.zeros(())
        if "to_temporal" in names:
            has_gradient = jnp.arange(leaf.shape[0]) < leaf.shape[0] - 1  # [number of layers]
            return jnp.where(has_gradient, weight_decay, 0.0).reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.asarray(weight_decay, jnp.float32)

    return jax.tree_util.tree_map_with_path(decay_of, params)


def make_optimizer(settings: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """AdamW without the learning rate, which `update` applies. `settings` is config.optimizer."""

    def add_decay(updates: dict, params: dict) -> dict:
        decays = weight_decays(params, settings.weight_decay)
        return jax.tree.map(lambda update, param, decay: update + decay * param, updates, params, decays)

    return optax.chain(
        optax.clip_by_global_norm(settings.grad_clip_norm) if settings.grad_clip_norm > 0 else optax.identity(),
        optax.scale_by_adam(settings.beta1, settings.beta2, settings.eps),
        optax.stateless(add_decay),
    )


def update(
    optimizer: optax.GradientTransformation, lr: jax.Array, grads: dict, opt_state: optax.OptState, params: dict
) -> tuple[dict, optax.OptState]:
    """One step of an optimizer from `make_optimizer` with learning rate `lr`, float32 [].

    Returns:
        The new parameters and optimizer state.
    """
    directions, opt_state = optimizer.update(grads, opt_state, params)
    return jax.tree.map(lambda param, direction: param - lr * direction, params, directions), opt_state
