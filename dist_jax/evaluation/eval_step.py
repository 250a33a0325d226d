"""The evaluation step: class logits of each view of complete videos."""

import jax

from dist_jax.models.networks import NO_NETWORK
from dist_jax.models.video_model import VideoModel

# Names of classifiers. "model" is the evaluated one. If it mixes the logits of DiST and plain CLIP, the same pass also
# returns the logits of each.
MODEL, TRAINED, PLAIN = "model", "dist", "clip"

ViewLogits = dict[str, dict[str, jax.Array]]  # classifier -> label name -> float32 [B, V * crops, K]


def eval_step(
    model: VideoModel,
    zero_shot_weight: float,
    params: dict,
    frozen: dict,
    text_features: dict[str, jax.Array],
    video: jax.Array,
) -> ViewLogits:
    """Class logits of each view of complete videos.

    Args:
        model: static.
        zero_shot_weight: static; weight of the plain CLIP logits (see VideoModel.mixed_logits).
        params: parameters of the network.
        frozen: the backbone's parameters, without "text".
        text_features: of the class names by label name, float32 [K, E] each.
        video: uint8 [B, V * crops, T, H, W, 3], the crops of a view are adjacent.

    Returns:
        Classifier -> label name -> logits float32 [B, V * crops, K]. The classifiers are MODEL and, if
        there is a network and 0 < zero_shot_weight < 1, TRAINED and PLAIN.
    """

    def view_logits(_: None, view: jax.Array) -> tuple[None, ViewLogits]:
        clips = model.normalize(view)  # [B, T, H, W, 3]
        if model.network_name == NO_NETWORK or not 0 < zero_shot_weight < 1:
            return None, {MODEL: model.mixed_logits(params, frozen, text_features, clips, zero_shot_weight)}
        trained, plain = model.both_logits(params, frozen, text_features, clips)
        mixed = model.mix(trained, plain, zero_shot_weight)
        return None, {MODEL: mixed, TRAINED: trained, PLAIN: plain}

    # A scan keeps one view's features in memory at a time.
    _, logits = jax.lax.scan(view_logits, None, video.swapaxes(0, 1))  # [V * crops, B, K] each
    return jax.tree.map(lambda views: views.swapaxes(0, 1), logits)
