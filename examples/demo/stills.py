"""Captioned stills of the demo's scenes: what the tiny CLIP learns from. No still and no caption tells of motion."""

import numpy as np

from examples.demo import scenes

POSES_A_SCENE = 16  # stills that share shape, colours and texture
SINGLE = 0.15  # share of captions that are short, as class names are


def captioned_stills(rng: np.random.Generator, count: int, resolution: int) -> tuple[np.ndarray, list[str]]:
    """Draws stills: uint8 [count, resolution, resolution, 3] and their captions."""
    images, captions = [], []
    while len(captions) < count:
        scene, poses = scenes.random_scene(rng), rng.uniform(size=(POSES_A_SCENE, 4))
        images.append(scenes.draw(scene, poses, resolution, resolution))
        captions += [caption(rng, scene, pose) for pose in poses]
    return np.concatenate(images)[:count], captions[:count]


def caption(rng: np.random.Generator, scene: scenes.Scene, pose: np.ndarray) -> str:
    """Says what a still with the pose [4] shows: all of it, or now and then one part."""
    x, y, size, angle = pose
    parts = (
        _word(x, "leftmost", "left", "right", "rightmost"),
        _word(y, "top", "up", "down", "bottom"),
        _word(size, "tiny", "small", "large", "huge"),
        _word(angle, "turned counter-clockwise", "upright", "turned clockwise"),
        f"{scene.colour} {scene.shape}",
    )
    return rng.choice(parts) if rng.uniform() < SINGLE else ", ".join(parts)


def _word(share: float, *words: str) -> str:
    """The word for a number in [0, 1): one for each of equal parts."""
    return words[int(share * len(words))]
