"""The jitted evaluation step."""

import jax
import jax.numpy as jnp

from dist_jax.models.preprocess import normalize
from dist_jax.models.video_model import VideoModel


def eval_step(
    model: VideoModel, zero_shot_weight: float, params: dict, frozen: dict, text: jax.Array, video: jax.Array
) -> jax.Array:
    """Scores of whole videos.

    Args:
        model: static.
        zero_shot_weight: static; share of plain CLIP in the logits (see VideoModel.logits).
        params: of the DiST network.
        frozen: {"vision", "logit_scale"} of CLIP.
        text: features of the class texts, float32 [K, E].
        video: uint8 [B, V * crops, T, H, W, 3], the crops of a view side by side.

    Returns:
        float32 [B, K]: softmax scores, summed over views and crops.
    """

    def one_view(total: jax.Array, view: jax.Array) -> tuple[jax.Array, None]:
        logits = model.logits(params, frozen, text, normalize(view, model.dtype), zero_shot_weight)
        return total + jax.nn.softmax(logits), None

    scores, _ = jax.lax.scan(one_view, jnp.zeros((video.shape[0], text.shape[0])), video.swapaxes(0, 1))
    return scores
