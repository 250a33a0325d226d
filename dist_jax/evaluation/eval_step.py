"""The evaluation step: scores of whole videos."""

import jax
import jax.numpy as jnp

from dist_jax.models.video_model import VideoModel


def eval_step(
    model: VideoModel, zero_shot_weight: float, params: dict, frozen: dict, text: jax.Array, video: jax.Array
) -> jax.Array:
    """Scores of whole videos.

    Args:
        model: static.
        zero_shot_weight: static; weight of the plain backbone in the logits (see VideoModel.logits).
        params: the network's.
        frozen: the backbone's parameters ("vision", "logit_scale").
        text: features of the class texts, float32 [K, E].
        video: uint8 [B, V * crops, T, H, W, 3], the crops of a view next to each other.

    Returns:
        float32 [B, K]: softmax scores, summed over views and crops.
    """

    def add_view(total: jax.Array, view: jax.Array) -> tuple[jax.Array, None]:
        logits = model.logits(params, frozen, text, model.normalize(view), zero_shot_weight)
        return total + jax.nn.softmax(logits), None

    # A scan keeps one view's features in memory at a time.
    scores, _ = jax.lax.scan(add_view, jnp.zeros((video.shape[0], text.shape[0])), video.swapaxes(0, 1))
    return scores
