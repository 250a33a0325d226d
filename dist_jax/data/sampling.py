"""Choice of a training clip's frames. Evaluation uses `video.eval_views.temporal_views`.

`clip_frames` is T. A video with too few frames repeats frames by the same rule. The results are int64 [T], in ascending
order.
"""

import numpy as np


def train_frames(num_frames: int, sampling: str, clip_frames: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """One random clip. `sampling` is "segments" or "dense" (config.data.sampling); `stride` is used by "dense" only."""
    if sampling == "segments":
        return random_segments(num_frames, clip_frames, rng)
    return random_dense(num_frames, clip_frames, stride, rng)


def random_segments(num_frames: int, clip_frames: int, rng: np.random.Generator) -> np.ndarray:
    """One uniform draw in each of T equal segments, rounded half to even and clamped (published recipe)."""
    points = (np.arange(clip_frames) + rng.random(clip_frames)) * num_frames / clip_frames
    return np.minimum(np.round(points).astype(np.int64), num_frames - 1)


def random_dense(num_frames: int, clip_frames: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """T frames at distance `stride` from a uniform random start, rounded down. The last frame repeats after the end."""
    start = int(rng.random() * max(num_frames - clip_frames * stride, 0))
    return np.minimum(start + np.arange(clip_frames) * stride, num_frames - 1)
