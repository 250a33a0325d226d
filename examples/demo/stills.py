"""Images of the demo's scenes with captions: the training set of the tiny CLIP. Neither contains motion."""

import numpy as np

from examples.demo import scenes

POSES_PER_SCENE = 16  # consecutive images with the same shape, colours and texture
SHORT_PROB = 0.15  # probability of a short caption, similar to a class name


def captioned_stills(rng: np.random.Generator, count: int, resolution: int) -> tuple[np.ndarray, list[str]]:
    """Draws images, uint8 [count, resolution, resolution, 3], and their captions."""
    images, captions = [], []
    while len(captions) < count:
        scene, poses = scenes.random_scene(rng), rng.uniform(size=(POSES_PER_SCENE, 4))
        images.append(scenes.draw(scene, poses, resolution, resolution))
        captions += [caption(rng, scene, pose) for pose in poses]
    return np.concatenate(images)[:count], captions[:count]


def caption(rng: np.random.Generator, scene: scenes.Scene, pose: np.ndarray) -> str:
    """Caption of an image with this pose [4]: a complete description, or with SHORT_PROB one part."""
    x, y, size, angle = pose
    parts = (
        _word(x, "leftmost", "left", "right", "rightmost"),
        _word(y, "top", "up", "down", "bottom"),
        _word(size, "tiny", "small", "large", "huge"),
        _word(angle, "turned counter-clockwise", "upright", "turned clockwise"),
        f"{scene.colour} {scene.shape}",
    )
    return rng.choice(parts) if rng.uniform() < SHORT_PROB else ", ".join(parts)


def _word(value: float, *words: str) -> str:
    """Word for a number in [0, 1), which is divided into equal parts."""
    return words[int(value * len(words))]
