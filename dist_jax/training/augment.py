"""Augmentation on the accelerator: uint8 clips and labels -> inputs of the network and soft targets."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from dist_jax.config import mix_group
from dist_jax.training import mixing
from dist_jax.training.losses import smooth_labels


class Draws(NamedTuple):
    """The random choices of one batch. Small arrays, sampled for the whole batch on every device."""

    gray: jax.Array  # bool [B]
    jitter: jax.Array  # float32 [B, 3], factors of brightness, contrast, saturation
    mix: mixing.MixDraw  # one entry per pair of mixed clips; all pairs of a group have equal entries


def draw(config: ml_collections.FrozenConfigDict, resolution: int, step: jax.Array) -> Draws:
    """Samples the random choices of a training batch from the seed and the step alone.

    Args:
        config: the whole configuration; B is config.batch_size.
        resolution: H = W, pixels.
        step: completed optimizer steps, int32 [].
    """
    batch_size, group, strength = config.batch_size, mix_group(config), config.augment.color_jitter
    gray, jitter, mix = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), step), 3)
    per_group = mixing.draw(mix, batch_size // group, (resolution, resolution), config.mix)
    pairs_per_group = group // mixing.pair_size(group)
    return Draws(
        jax.random.bernoulli(gray, config.augment.grayscale_prob, (batch_size,)),
        jax.random.uniform(jitter, (batch_size, 3), minval=1 - strength, maxval=1 + strength),
        jax.tree.map(lambda leaf: jnp.repeat(leaf, pairs_per_group, axis=0), per_group),
    )


def network_inputs(
    config: ml_collections.FrozenConfigDict,
    normalize: Callable[[jax.Array], jax.Array],
    video: jax.Array,
    labels: Mapping[str, jax.Array],
    num_classes: Mapping[str, int],
    draws: Draws,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Augments, normalises and mixes clips.

    Args:
        config: the whole configuration.
        normalize: pixels 0..255 -> the network's input (`VideoModel.normalize`).
        video: uint8 [b, T, H, W, 3], whole pairs of a batch in the order of `mixing.order`.
        labels: by label name, class numbers int32 [b], or bool [b, K] (data.multi_label).
        num_classes: K of each label.
        draws: of these rows.

    Returns:
        Clips [b, T, H, W, 3] in the dtype of `normalize`, and soft targets by label name, float32 [b, K] each.
    """
    pixels = video.astype(jnp.float32)
    if config.augment.color_jitter > 0:
        pixels = color_jitter(pixels, draws.jitter)
    if config.augment.grayscale_prob > 0:
        pixels = grayscale(pixels, draws.gray)
    smoothing = config.mix.label_smoothing
    targets = {name: smooth_labels(label, num_classes[name], smoothing) for name, label in labels.items()}
    return mixing.apply(normalize(pixels), targets, draws.mix, union=config.data.multi_label)


def grayscale(pixels: jax.Array, selected: jax.Array) -> jax.Array:
    """Removes the colour of the selected clips.

    Args:
        pixels: float [B, T, H, W, 3].
        selected: bool [B].

    Returns:
        The same shape and dtype. All three channels of a selected clip hold its luma (ITU-R 601, as in torchvision).
    """
    # Not a matrix product: accelerators would round the pixels, and the product would be a second copy in memory.
    gray = sum(weight * pixels[..., i : i + 1] for i, weight in enumerate((0.2989, 0.587, 0.114)))  # [B, T, H, W, 1]
    return jnp.where(selected[:, None, None, None, None], gray, pixels)


def color_jitter(pixels: jax.Array, factors: jax.Array) -> jax.Array:
    """Changes brightness, then contrast, then saturation of whole clips, as torchvision does.

    Args:
        pixels: float [B, T, H, W, 3], 0 to 255.
        factors: float [B, 3]; 1 is the identity.

    Returns:
        The same shape and dtype, 0 to 255.
    """
    brightness, contrast, saturation = (factors[:, i, None, None, None, None].astype(pixels.dtype) for i in range(3))
    pixels = jnp.clip(pixels * brightness, 0, 255)
    all_clips = jnp.ones(pixels.shape[0], bool)
    mean = jnp.mean(grayscale(pixels, all_clips), axis=(2, 3, 4), keepdims=True)  # [B, T, 1, 1, 1]
    pixels = jnp.clip(mean + contrast * (pixels - mean), 0, 255)
    gray = grayscale(pixels, all_clips)
    return jnp.clip(gray + saturation * (pixels - gray), 0, 255)
