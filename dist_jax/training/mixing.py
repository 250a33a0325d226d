"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) inside groups of consecutive clips.

A group shares one draw and pairs each clip with the one at the mirrored place in the same group, so mixing needs no
other group's clips and gives the same result on any number of devices. A batch holds its rows in the order of `order`,
which puts the two of a pair side by side: a device needs the clips of no other, however few of a group it has. Drawing
is apart from applying: the draws are a few numbers, made for the whole batch at once, and go with their pairs into
whichever part of a batch these go.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dist_jax.typing import PyTree


class MixDraw(NamedTuple):
    """One draw for each of G groups."""

    share: jax.Array  # float32 [G], how much of the clip itself its target keeps, 0 to 1
    box: jax.Array  # int32 [G, 4], top, left, bottom, right of what CutMix pastes, pixels; empty for Mixup
    blend: jax.Array  # float32 [G], weight of the clip itself outside of the box


def partners(group: int) -> int:
    """Clips that are mixed with each other: 2, or 1 where a group is a single clip, which is not mixed."""
    return min(group, 2)


def order(batch_size: int, group: int) -> np.ndarray:
    """The row of the global batch that each place of the batch holds: 0, group - 1, 1, group - 2, ...; int64 [B]."""
    rows = np.arange(batch_size, dtype=np.int64).reshape(-1, group)  # [B / group, group]
    mirrored = rows[:, ::-1]
    return np.stack([rows, mirrored], axis=2).reshape(len(rows), -1)[:, :group].reshape(-1)


def draw(key: jax.Array, groups: int, size: tuple[int, int], mix: ml_collections.ConfigDict) -> MixDraw:
    """Draws for `groups` groups of clips of `size` (H, W) pixels, by the settings config.mix."""
    keys = jax.random.split(key, groups)
    return jax.vmap(lambda k: _draw_one(k, size, mix))(keys)


def _draw_one(key: jax.Array, size: tuple[int, int], mix: ml_collections.ConfigDict) -> MixDraw:
    on, which, kept, place = jax.random.split(key, 4)
    mixed = jax.random.bernoulli(on, mix.mix_prob if mix.mixup_alpha > 0 or mix.cutmix_alpha > 0 else 0.0)
    if mix.mixup_alpha > 0 and mix.cutmix_alpha > 0:
        is_cutmix = jax.random.bernoulli(which, mix.switch_prob)
    else:
        is_cutmix = jnp.asarray(mix.cutmix_alpha > 0)
    alpha = jnp.where(is_cutmix, mix.cutmix_alpha, mix.mixup_alpha)
    kept = jax.random.beta(kept, alpha, alpha)
    blend = jnp.where(mixed & ~is_cutmix, kept, 1.0)
    box = jnp.where(mixed & is_cutmix, _box(place, kept, size), 0)
    area = (box[2] - box[0]) * (box[3] - box[1])
    share = blend * (1.0 - area.astype(jnp.float32) / (size[0] * size[1]))
    return MixDraw(share, box, blend)


def _box(key: jax.Array, kept: jax.Array, size: tuple[int, int]) -> jax.Array:
    """A box of (1 - kept) of the frame's area around a uniform centre, cut off at the frame's edges: int32 [4]."""
    height, width = size
    side = jnp.sqrt(1.0 - kept)
    half = jnp.stack([height * side, width * side]).astype(jnp.int32) // 2
    centre = jax.random.randint(key, (2,), 0, jnp.asarray(size))
    limits = jnp.asarray(size, jnp.int32)
    low = jnp.clip(centre - half, 0, limits)
    high = jnp.clip(centre + half, 0, limits)
    return jnp.concatenate([low, high])


def apply(video: jax.Array, targets: PyTree, draws: MixDraw) -> tuple[jax.Array, PyTree]:
    """Mixes each clip with the mirrored one of its group.

    Args:
        video: float [B, T, H, W, 3], B = G * group.
        targets: float32 [B, K], or a tree of such arrays.
        draws: for the G groups, in order.

    Returns:
        Mixed video and targets, of the same shapes and dtypes.
    """
    groups = draws.share.shape[0]
    grouped = video.reshape(groups, -1, *video.shape[1:])  # [G, group, T, H, W, 3]
    weight = _weights(draws, video.shape[2:4])[:, None, None, :, :, None].astype(video.dtype)  # [G, 1, 1, H, W, 1]
    grouped = grouped * weight + grouped[:, ::-1] * (1 - weight)
    share = draws.share[:, None, None]  # [G, 1, 1]

    def mix(target: jax.Array) -> jax.Array:
        rows = target.reshape(groups, -1, target.shape[1])  # [G, group, K]
        return (rows * share + rows[:, ::-1] * (1 - share)).reshape(target.shape)

    return grouped.reshape(video.shape), jax.tree.map(mix, targets)


def _weights(draws: MixDraw, size: tuple[int, ...]) -> jax.Array:
    """Weight of the clip itself at each pixel: float32 [G, H, W], 0 inside of the box and `blend` outside."""
    rows = jnp.arange(size[0], dtype=jnp.int32)[None, :, None]  # [1, H, 1]
    columns = jnp.arange(size[1], dtype=jnp.int32)[None, None, :]  # [1, 1, W]
    top, left, bottom, right = (draws.box[:, i, None, None] for i in range(4))  # [G, 1, 1] each
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)  # [G, H, W]
    return jnp.where(inside, 0.0, draws.blend[:, None, None])
