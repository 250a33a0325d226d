"""Position embeddings for another image resolution."""

import numpy as np


def resize_positions(positions: np.ndarray, grid: int, num_prefix: int = 1) -> np.ndarray:
    """Resizes the position embeddings of a square grid of patches.

    Bicubic, as in PyTorch's interpolate (align_corners=False, no antialiasing): Keys' kernel with a = -0.75, with
    coordinates clamped at the border. jax.image uses a = -0.5 and antialiasing.

    Args:
        positions: float [num_prefix + N, D], prefix tokens first.
        grid: new number of patches along each side.
        num_prefix: tokens before the patches, which keep their positions.

    Returns:
        float32 [num_prefix + grid*grid, D]; `positions` itself if the grid does not change.
    """
    old_grid = round((len(positions) - num_prefix) ** 0.5)
    if old_grid == grid:
        return positions
    patches = positions[num_prefix:].astype(np.float64).reshape(old_grid, old_grid, -1)  # [h, w, D]
    weights = _bicubic_weights(old_grid, grid)  # [grid, old_grid]
    patches = np.einsum("yh,xw,hwd->yxd", weights, weights, patches, optimize=True)  # [grid, grid, D]
    return np.concatenate([positions[:num_prefix], patches.reshape(grid * grid, -1)]).astype(np.float32)


def _bicubic_weights(old_size: int, new_size: int) -> np.ndarray:
    """Weights [new_size, old_size] of the old pixels for each new pixel."""
    centres = (np.arange(new_size) + 0.5) * old_size / new_size - 0.5  # in old pixels
    first = np.floor(centres).astype(int) - 1
    weights = np.zeros((new_size, old_size))
    for tap in range(4):
        distance = np.abs(centres - (first + tap))
        inner = 1.25 * distance**3 - 2.25 * distance**2 + 1
        outer = -0.75 * distance**3 + 3.75 * distance**2 - 6 * distance + 3
        pixels = np.clip(first + tap, 0, old_size - 1)
        np.add.at(weights, (np.arange(new_size), pixels), np.where(distance <= 1, inner, outer))
    return weights
