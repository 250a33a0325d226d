"""Temporal views and spatial crops of the evaluation protocol, in NumPy. Evaluation and prediction both use them."""

import numpy as np


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


def short_side_crops(frames: np.ndarray, size: int, num_crops: int) -> np.ndarray:
    """Scales frames uint8 [m, h, w, 3] to a short side of `size` and crops: uint8 [num_crops, m, size, size, 3]."""
    (height, width), corners = crop_geometry(frames.shape[1], frames.shape[2], size, num_crops)
    scaled = np.stack([resize_bilinear(frame, height, width) for frame in frames])
    return np.stack([scaled[:, top : top + size, left : left + size] for top, left in corners])


def resize_bilinear(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [h, w, 3] -> uint8 [height, width, 3]: bilinear between pixel centres, no antialiasing, rounded."""
    top, bottom, y = _taps(frame.shape[0], height)
    left, right, x = _taps(frame.shape[1], width)
    pixels = frame.astype(np.float32)
    rows = pixels[top] + (pixels[bottom] - pixels[top]) * y[:, None, None]  # [height, w, 3]
    columns = rows[:, left] + (rows[:, right] - rows[:, left]) * x[None, :, None]  # [height, width, 3]
    return (columns + np.float32(0.5)).astype(np.uint8)  # a mean of uint8 values needs no clipping


def _taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two source pixels of every target pixel (int [new]) and the weight of the second (float32 [new])."""
    points = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new) - np.float32(0.5)
    low = np.floor(points)
    weight = (points - low).astype(np.float32)
    return np.clip(low, 0, old - 1).astype(int), np.clip(low + 1, 0, old - 1).astype(int), weight
