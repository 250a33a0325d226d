"""Scores of views, in NumPy."""

import numpy as np


def to_scores(logits: np.ndarray, multi_label: bool = False) -> np.ndarray:
    """Logits float32 [..., K] -> softmax over classes, or sigmoids if a video has several labels; float32 [..., K]."""
    if multi_label:
        return (0.5 * (1.0 + np.tanh(0.5 * logits))).astype(np.float32)  # exp(-logits) may overflow
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def sum_views(scores: np.ndarray) -> np.ndarray:
    """Scores of videos: [n, V, K] -> float64 [n, K]."""
    return scores.sum(axis=1, dtype=np.float64)
