"""From a batch of pixels and labels to what the network sees: all that is drawn, and the steps that it goes into."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from dist_jax.config import mix_group
from dist_jax.models.preprocess import color_jitter, grayscale, normalize
from dist_jax.training import mixing
from dist_jax.training.losses import smooth_labels


class Draws(NamedTuple):
    """The random choices of one batch: small arrays, drawn for the whole batch whatever its parts and devices."""

    gray: jax.Array  # bool [B]
    jitter: jax.Array  # float32 [B, 3], factors of brightness, contrast, saturation
    mix: mixing.MixDraw  # of the pairs of clips that are mixed, the same for all pairs of a group


def draw(config: ml_collections.FrozenConfigDict, resolution: int, step: jax.Array) -> Draws:
    """The random choices of a training batch: they depend on nothing but the seed and the step.

    Args:
        config: the whole configuration; B is its batch_size.
        resolution: H = W, pixels.
        step: optimizer steps made before, int32 [].
    """
    batch_size, group, strength = config.batch_size, mix_group(config), config.augment.color_jitter
    gray, jitter, mix = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), step), 3)
    of_groups = mixing.draw(mix, batch_size // group, (resolution, resolution), config.mix)
    pairs = group // mixing.partners(group)  # of a group
    return Draws(
        jax.random.bernoulli(gray, config.augment.grayscale_prob, (batch_size,)),
        jax.random.uniform(jitter, (batch_size, 3), minval=1 - strength, maxval=1 + strength),
        jax.tree.map(lambda of_group: jnp.repeat(of_group, pairs, axis=0), of_groups),
    )


def network_inputs(
    config: ml_collections.FrozenConfigDict,
    dtype: jnp.dtype,
    video: jax.Array,
    label: jax.Array,
    classes: int,
    draws: Draws,
) -> tuple[jax.Array, jax.Array]:
    """The clips and targets of training.

    Args:
        config: the whole configuration.
        dtype: of the clips.
        video: uint8 [b, T, H, W, 3], whole pairs of a batch in the order of `mixing.order`.
        label: int32 [b].
        classes: K.
        draws: for these rows.

    Returns:
        Normalised and mixed clips [b, T, H, W, 3] in `dtype`, and their targets float32 [b, K].
    """
    pixels = video.astype(jnp.float32)
    if config.augment.color_jitter > 0:
        pixels = color_jitter(pixels, draws.jitter)
    if config.augment.grayscale_prob > 0:
        pixels = grayscale(pixels, draws.gray)
    targets = smooth_labels(label, classes, config.mix.label_smoothing)
    return mixing.apply(normalize(pixels, dtype), targets, draws.mix)
