"""Evidence: where the queries of the pooling layers look in the views of a video."""

import dataclasses

import numpy as np

from dist_jax.inference.predictor import Predictor


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Attention weights of one pooling layer, means over the heads, for the V views of a video.

    The weights say which tokens the network reads most in its last step. They do not say which pixels cause the
    prediction: a token of a late block has information from the whole frame, and the class scores do not enter.
    """

    path: str
    frames: np.ndarray  # pixels of the S frames that CLIP sees, uint8 [V, S, H, W, 3]
    frame_weights: np.ndarray  # of the video query, float32 [V, S]; a row sums to 1
    patch_weights: np.ndarray  # of the spatial query, float32 [V, S, h, w]; the rest to 1 is the class token's

    @property
    def patch_shares(self) -> np.ndarray:
        """`patch_weights` of each frame scaled to the sum 1: float32 [V, S, h, w]."""
        return self.patch_weights / self.patch_weights.sum(axis=(-2, -1), keepdims=True)


def explain(model: Predictor, path: str, views: np.ndarray, layer: int = -1) -> Evidence:
    """Computes the evidence of the views of a video, one view at a time to limit device memory.

    Args:
        model: a DiST model.
        path: the video file, for titles.
        views: pixels, uint8 [V, T, H, W, 3].
        layer: pooling layer, from 0; default: the last one, whose queries are the network's result.

    Raises:
        UserError: the network is not DiST.
    """
    maps = [model.attention(view[None]) for view in views]
    frame_weights = np.stack([np.asarray(view.frames)[0, layer] for view in maps])  # [V, S]
    patch_weights = np.stack([np.asarray(view.patches)[0, layer] for view in maps])  # [V, S, h, w]
    alpha = views.shape[1] // frame_weights.shape[1]
    return Evidence(path, views[:, ::alpha], frame_weights, patch_weights)


def weight_inside(evidence: Evidence, mask: np.ndarray) -> np.ndarray:
    """Share of the patch weights of each frame inside a mask.

    Args:
        evidence: of V views.
        mask: coverage of each pixel, 0 to 1, float [V, S, H, W], H and W as in `evidence.frames`.

    Returns:
        float [V, S]: 0 to 1. Equal weights of all patches give the mask's share of the area.
    """
    num_views, num_frames, rows, columns = evidence.patch_weights.shape
    height, width = mask.shape[-2:]
    parts = mask.reshape(num_views, num_frames, rows, height // rows, columns, width // columns)
    return np.sum(evidence.patch_shares * parts.mean(axis=(3, 5)), axis=(-2, -1))
