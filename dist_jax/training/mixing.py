"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) within groups of consecutive clips.

All clips of a group share one draw. Clip i of a group of n is mixed with clip n - 1 - i of the same group, so the
result does not depend on the number of devices. `order` makes the two clips of a pair neighbours in the batch, so that
no clip moves between devices, even if a device has only a part of a group. `draw` samples one entry per group. The
caller repeats it for each pair of the group, and `apply` mixes the pairs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dist_jax.typing import PyTree


class MixDraw(NamedTuple):
    """Random choices for G sets of clips (groups or pairs). A weight w belongs to the clip, 1 - w to its partner."""

    target_weight: jax.Array  # float32 [G], 0 to 1
    box: jax.Array  # int32 [G, 4], CutMix box: top, left, bottom, right, pixels; empty for Mixup
    pixel_weight: jax.Array  # float32 [G], for pixels outside the box; the weight inside is 0


def pair_size(group_size: int) -> int:
    """Number of clips that are mixed with each other: 2, or 1 if a group is a single clip, which is not mixed."""
    return min(group_size, 2)


def order(batch_size: int, group_size: int) -> np.ndarray:
    """Order of the clips that makes partners neighbours: 0, n - 1, 1, n - 2, ... in each group of n; int64 [B]."""
    rows = np.arange(batch_size, dtype=np.int64).reshape(-1, group_size)  # [B / n, n]
    partners = rows[:, ::-1]
    return np.stack([rows, partners], axis=2).reshape(len(rows), -1)[:, :group_size].reshape(-1)


def draw(key: jax.Array, num_groups: int, size: tuple[int, int], settings: ml_collections.ConfigDict) -> MixDraw:
    """Samples the choices for `num_groups` groups of clips.

    Args:
        key: random key.
        num_groups: G.
        size: (H, W) of the clips, pixels.
        settings: config.mix.
    """
    keys = jax.random.split(key, num_groups)
    return jax.vmap(lambda key: _draw_group(key, size, settings))(keys)


def _draw_group(key: jax.Array, size: tuple[int, int], settings: ml_collections.ConfigDict) -> MixDraw:
    mix_key, switch_key, weight_key, box_key = jax.random.split(key, 4)
    mixup_alpha, cutmix_alpha = settings.mixup_alpha, settings.cutmix_alpha
    is_mixed = jax.random.bernoulli(mix_key, settings.mix_prob if mixup_alpha > 0 or cutmix_alpha > 0 else 0.0)
    if mixup_alpha > 0 and cutmix_alpha > 0:
        is_cutmix = jax.random.bernoulli(switch_key, settings.switch_prob)
    else:
        is_cutmix = jnp.asarray(cutmix_alpha > 0)
    alpha = jnp.where(is_cutmix, cutmix_alpha, mixup_alpha)
    weight = jax.random.beta(weight_key, alpha, alpha)
    pixel_weight = jnp.where(is_mixed & ~is_cutmix, weight, 1.0)
    box = jnp.where(is_mixed & is_cutmix, _draw_box(box_key, weight, size), 0)
    area = (box[2] - box[0]) * (box[3] - box[1])
    target_weight = pixel_weight * (1.0 - area.astype(jnp.float32) / (size[0] * size[1]))
    return MixDraw(target_weight, box, pixel_weight)


def _draw_box(key: jax.Array, weight: jax.Array, size: tuple[int, int]) -> jax.Array:
    """A box with the share 1 - weight of the frame's area and a uniform centre, clipped to the frame: int32 [4]."""
    height, width = size
    side = jnp.sqrt(1.0 - weight)
    half = jnp.stack([height * side, width * side]).astype(jnp.int32) // 2
    centre = jax.random.randint(key, (2,), 0, jnp.asarray(size))
    limits = jnp.asarray(size, jnp.int32)
    low = jnp.clip(centre - half, 0, limits)
    high = jnp.clip(centre + half, 0, limits)
    return jnp.concatenate([low, high])


def apply(video: jax.Array, targets: PyTree, draws: MixDraw, union: bool = False) -> tuple[jax.Array, PyTree]:
    """Mixes each clip and its targets with those of its partner.

    Args:
        video: float [B, T, H, W, 3]: G sets of n = B / G consecutive clips. Clip i of a set has the partner n - 1 - i.
        targets: float32 [B, K], or a tree of such arrays.
        draws: for the G sets, in order.
        union: the target of a class is the larger one of the clips that are visible, instead of their weighted mean:
          for clips with several labels, where a mixed clip shows the classes of both.

    Returns:
        Mixed video and targets, with the same shapes and dtypes.
    """
    num_groups = draws.target_weight.shape[0]
    grouped = video.reshape(num_groups, -1, *video.shape[1:])  # [G, n, T, H, W, 3]
    weights = _pixel_weights(draws, video.shape[2:4])  # [G, H, W]
    weights = weights[:, None, None, :, :, None].astype(video.dtype)  # [G, 1, 1, H, W, 1]
    grouped = grouped * weights + grouped[:, ::-1] * (1 - weights)
    target_weight = draws.target_weight[:, None, None]  # [G, 1, 1]

    def mix(target: jax.Array) -> jax.Array:
        rows = target.reshape(num_groups, -1, target.shape[1])  # [G, n, K]
        partners = rows[:, ::-1]
        if union:
            own, other = jnp.where(target_weight > 0, rows, 0), jnp.where(target_weight < 1, partners, 0)
            return jnp.maximum(own, other).reshape(target.shape)
        return (rows * target_weight + partners * (1 - target_weight)).reshape(target.shape)

    return grouped.reshape(video.shape), jax.tree.map(mix, targets)


def _pixel_weights(draws: MixDraw, size: tuple[int, ...]) -> jax.Array:
    """Weight of a clip (not of its partner) at each pixel: float32 [G, H, W]."""
    rows = jnp.arange(size[0], dtype=jnp.int32)[None, :, None]  # [1, H, 1]
    columns = jnp.arange(size[1], dtype=jnp.int32)[None, None, :]  # [1, 1, W]
    top, left, bottom, right = (draws.box[:, i, None, None] for i in range(4))  # [G, 1, 1] each
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)  # [G, H, W]
    return jnp.where(inside, 0.0, draws.pixel_weight[:, None, None])
