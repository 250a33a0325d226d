"""Scores of views, in NumPy."""

import numpy as np
from scipy.special import expit


def to_scores(logits: np.ndarray, multi_label: bool = False) -> np.ndarray:
    """Logits float32 [..., K] -> softmax over classes, float32; if a video has several labels sigmoids, float64."""
    if multi_label:
        return expit(logits.astype(np.float64))  # float32 is 1 for all logits above 17: videos would tie
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def sum_views(scores: np.ndarray) -> np.ndarray:
    """Scores of videos: [n, V, K] -> float64 [n, K]."""
    return scores.sum(axis=1, dtype=np.float64)
