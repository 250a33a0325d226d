"""The evaluation step: class scores of complete videos, summed over views."""

import jax
import jax.numpy as jnp

from dist_jax.models.video_model import VideoModel


def eval_step(
    model: VideoModel, zero_shot_weight: float, params: dict, frozen: dict, text_features: jax.Array, video: jax.Array
) -> jax.Array:
    """Class scores of complete videos.

    Args:
        model: static.
        zero_shot_weight: static; weight of the backbone's own logits (see VideoModel.logits).
        params: parameters of the network.
        frozen: the backbone's parameters ("vision", "logit_scale").
        text_features: of the class names, float32 [K, E].
        video: uint8 [B, V * crops, T, H, W, 3], the crops of a view are adjacent.

    Returns:
        float32 [B, K]: softmax scores, summed over views and crops.
    """

    def add_view(total: jax.Array, view: jax.Array) -> tuple[jax.Array, None]:
        logits = model.logits(params, frozen, text_features, model.normalize(view), zero_shot_weight)
        return total + jax.nn.softmax(logits), None

    # A scan keeps one view's features in memory at a time.
    scores, _ = jax.lax.scan(add_view, jnp.zeros((video.shape[0], text_features.shape[0])), video.swapaxes(0, 1))
    return scores
