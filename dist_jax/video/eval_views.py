"""Temporal views and spatial crops of the evaluation protocol, in NumPy. Evaluation and prediction both use them."""

import numpy as np

from dist_jax.video.resize import Frames, resize_bilinear


def temporal_views(num_frames: int, sampling: str, clip_frames: int, stride: int, num_views: int) -> np.ndarray:
    """Frame numbers of V temporal views of a video.

    Args:
        num_frames: number of frames of the video, at least 1.
        sampling: "segments" or "dense" (config.data.sampling).
        clip_frames: T.
        stride: distance between consecutive frames of a clip ("dense" only).
        num_views: V.

    Returns:
        int32 [V, T]. Frame numbers repeat if the video has too few frames.
    """
    if sampling == "segments":
        points = _segment_points(num_frames, clip_frames, num_views)
    else:
        points = _dense_points(num_frames, clip_frames, stride, num_views)
    return np.clip(points, 0, num_frames - 1).astype(np.int32)


def _segment_points(num_frames: int, clip_frames: int, num_views: int) -> np.ndarray:
    """View v takes the point (v+1)/V of each of T equal segments (V = 1: the middle), rounded half to even.

    The published code computes in float32. The frames are the same if T is a power of two, as in all published
    models.
    """
    numerators, denominator = (np.arange(1, num_views + 1), num_views) if num_views > 1 else (np.array([1]), 2)
    parts = np.arange(clip_frames) * denominator + numerators[:, None]  # [V, T], in units of 1 / denominator
    return np.round(parts * num_frames / (clip_frames * denominator))


def _dense_points(num_frames: int, clip_frames: int, stride: int, num_views: int) -> np.ndarray:
    """View v starts at v/V of the range of start frames (V = 1: the middle), rounded down."""
    last_start = max(num_frames - clip_frames * stride, 0)
    starts = np.arange(num_views) * last_start // num_views if num_views > 1 else np.array([last_start // 2])
    return starts[:, None] + np.arange(clip_frames) * stride  # [V, T]


def crop_geometry(height: int, width: int, size: int, num_crops: int) -> tuple[np.ndarray, np.ndarray]:
    """Geometry of square crops after scaling the short side to `size`.

    Args:
        height: height of the frame, pixels.
        width: width of the frame, pixels.
        size: short side after scaling, and height and width of a crop, pixels.
        num_crops: 1 (centre) or 3 (start, centre and end of the long side).

    Returns:
        int32 [2], height and width after scaling; int32 [num_crops, 2], top and left of each crop.
    """
    # The published code truncates, and uses this order of operations.
    long_side = int(max(height, width) / min(height, width) * size)
    scaled = (long_side if height > width else size, long_side if width > height else size)
    bottom, right = scaled[0] - size, scaled[1] - size
    centre = (bottom // 2, right // 2)
    corners = [(0, 0), centre, (bottom, right)] if num_crops == 3 else [centre]
    return np.array(scaled, np.int32), np.array(corners, np.int32)


def short_side_crops(frames: Frames, size: int, num_crops: int) -> np.ndarray:
    """Scales frames uint8 [h, w, 3] to a short side of `size` and crops: uint8 [num_crops, m, size, size, 3]."""
    crops = np.empty((num_crops, len(frames), size, size, 3), np.uint8)
    for position, frame in enumerate(frames):
        (height, width), corners = crop_geometry(frame.shape[0], frame.shape[1], size, num_crops)
        scaled = resize_bilinear([frame], height, width)[0]
        for crop, (top, left) in zip(crops, corners.tolist(), strict=True):
            crop[position] = scaled[top : top + size, left : left + size]
    return crops
