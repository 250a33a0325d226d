"""Random crops, the labels of flipped clips and erasing, on the host.

`training/augment.py` runs later, on the accelerator: normalisation, grayscale, colour jitter and mixing.
"""

import math
from collections.abc import Sequence

import numpy as np

_CROP_ATTEMPTS = 10  # as in torchvision


def random_resized_crop(
    height: int, width: int, scale: Sequence[float], ratio: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """A random window, as torchvision's RandomResizedCrop draws it.

    Ten attempts; the first box that fits is placed uniformly. If none fits, the window is the centre of the frame, with
    the aspect ratio clamped to `ratio`.

    Args:
        height: of the frame, pixels.
        width: of the frame, pixels.
        scale: smallest and largest share of the frame's area.
        ratio: smallest and largest width / height; the draw is log-uniform.
        rng: the generator.

    Returns:
        int64 [4]: top, left, height, width, pixels.
    """
    draws = rng.random((4, _CROP_ATTEMPTS))
    areas = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    ratios = np.exp(low + (high - low) * draws[1])
    heights = np.round(np.sqrt(areas / ratios)).astype(np.int64)  # [10]
    widths = np.round(np.sqrt(areas * ratios)).astype(np.int64)
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    if not fits.any():
        return _centre_window(height, width, ratio)
    first = int(np.argmax(fits))  # argmax returns the first of equal values
    crop_height, crop_width = int(heights[first]), int(widths[first])
    top = int(draws[2, first] * (height - crop_height + 1))
    left = int(draws[3, first] * (width - crop_width + 1))
    return np.array([top, left, crop_height, crop_width])


def _centre_window(height: int, width: int, ratio: Sequence[float]) -> np.ndarray:
    """The largest centred window with width / height between ratio[0] and ratio[1]."""
    crop_height = round(width / ratio[0]) if width / height < ratio[0] else height
    crop_width = round(height * ratio[1]) if width / height > ratio[1] else width
    return np.array([(height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width])


def swap_labels(labels: np.ndarray, pairs: Sequence[int]) -> np.ndarray:
    """Labels of a flipped clip: a class number, int32 [], or the classes of a clip, bool [K].

    `pairs` are class numbers a, b, a, b, ...: the two classes of a pair swap.
    """
    partner = dict(zip([*pairs[::2], *pairs[1::2]], [*pairs[1::2], *pairs[::2]], strict=True))
    if labels.dtype == np.bool_:
        return labels[[partner.get(number, number) for number in range(len(labels))]]
    return np.asarray(partner.get(int(labels), int(labels)), labels.dtype)


def random_erase(video: np.ndarray, probability: float, rng: np.random.Generator) -> None:
    """With the given probability, replaces one box in all frames by noise: 2 to 33 % of the area, ratio 0.3 to 3.3.

    Changes `video`, uint8 [T, H, W, 3].
    """
    if rng.random() >= probability:
        return
    _, frame_height, frame_width, channels = video.shape
    box = random_resized_crop(frame_height, frame_width, (0.02, 1 / 3), (0.3, 1 / 0.3), rng)
    top, left, height, width = box.tolist()
    noise = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    video[:, top : top + height, left : left + width] = noise
