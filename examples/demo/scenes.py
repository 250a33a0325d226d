"""Draws the demo's scenes: one coloured shape on a textured background, with a moving camera.

The pose of the shape is four numbers in [0, 1]: x, y, size, angle. A motion class increases or decreases one of them
over a random interval. The others stay constant, at a random point of a random interval. The frames of "moving left" in
reverse order are a sample of "moving right". The pose in a frame of unknown index has the same distribution in all
classes.

Known limit: the frame index adds information, because a shape that starts at the far left rarely moves left. A
quadratic classifier on the true pose reaches 56% accuracy on the first frame and 18% on the middle frame (chance:
12.5%).
Intervals of (0.35, 0.45) reduce this to 38%, but the demo's network does not learn them in a few minutes of training.
Camera, shape and colours are independent of the class.
"""

import dataclasses

import numpy as np

X, Y, SIZE, ANGLE = range(4)
MOTIONS = {  # class name: (pose component, direction); y points down, so an increasing angle turns clockwise
    "growing": (SIZE, +1),
    "moving down": (Y, +1),
    "moving left": (X, -1),
    "moving right": (X, +1),
    "moving up": (Y, -1),
    "shrinking": (SIZE, -1),
    "turning clockwise": (ANGLE, +1),
    "turning counter-clockwise": (ANGLE, -1),
}
SHAPES = ("circle", "square", "triangle", "star", "flower")
COLOURS = {
    "red": (255, 70, 70),
    "green": (70, 230, 90),
    "blue": (90, 130, 255),
    "yellow": (245, 225, 60),
    "purple": (200, 100, 250),
    "orange": (255, 160, 50),
    "cyan": (80, 230, 240),
    "white": (250, 250, 250),
}
RADIUS = (0.13, 0.36)  # minimum and maximum, relative to the frame height
TURN = 240  # degrees between angle 0 and angle 1; angle 0.5 points up
SPREAD = 0.7  # side of the square that contains the shape's centre, relative to the frame height
TRAVEL = (0.5, 0.7)  # minimum and maximum length of an interval
TEXTURE = 128  # pixels, height and width of the background's repeating texture


@dataclasses.dataclass(frozen=True)
class Scene:
    """Appearance of a clip, without the motion of the shape.

    Attributes:
        shape: one of SHAPES.
        colour: colour of the shape, a key of COLOURS.
        ground: colour of the background, another key of COLOURS.
        texture: float32 [TEXTURE, TEXTURE] in [0, 1], periodic; 0 is dark, 1 is light.
        camera: start position of the camera, (x, y) in texture pixels.
        pan: camera motion over the clip, (x, y) in pixels.
        shake: camera shake, (amplitude in pixels, periods per clip).
    """

    shape: str
    colour: str
    ground: str
    texture: np.ndarray
    camera: tuple[float, float]
    pan: tuple[float, float]
    shake: tuple[float, float]


def random_scene(rng: np.random.Generator) -> Scene:
    """A random scene. Shape and background have different colours."""
    colour, ground = rng.choice(list(COLOURS), size=2, replace=False)
    return Scene(
        shape=str(rng.choice(SHAPES)),
        colour=str(colour),
        ground=str(ground),
        texture=_texture(rng),
        camera=tuple(rng.uniform(0, TEXTURE, 2)),
        pan=tuple(rng.uniform(-40, 40, 2)),
        shake=(rng.uniform(0, 3), rng.uniform(1, 3)),
    )


def random_poses(rng: np.random.Generator, motion: str, num_frames: int) -> np.ndarray:
    """Poses of a clip of class `motion`: float64 [num_frames, 4] in [0, 1], columns X, Y, SIZE, ANGLE."""
    axis, direction = MOTIONS[motion]
    travel = rng.uniform(*TRAVEL, size=4)
    start = rng.uniform(0, 1 - travel)
    poses = np.tile(start + travel * rng.uniform(size=4), (num_frames, 1))
    poses[:, axis] = start[axis] + travel[axis] * np.linspace(0, 1, num_frames)[::direction]
    return poses


def draw(scene: Scene, poses: np.ndarray, height: int, width: int) -> np.ndarray:
    """Draws a clip: poses [F, 4] -> uint8 RGB frames [F, height, width, 3]."""
    frames = _background(scene, len(poses), height, width)  # [F, H, W, 3]
    body, front = _coverage(scene.shape, poses, height, width)  # [F, H, W] each
    colour = np.float32(COLOURS[scene.colour])
    frames += body[..., None] * (colour - frames)
    # The dark front half shows the angle, also for a circle.
    frames += front[..., None] * (0.35 * colour - frames)
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


def shape_mask(scene: Scene, poses: np.ndarray, height: int, width: int) -> np.ndarray:
    """Coverage of each pixel by the shape: poses [F, 4] -> float32 [F, height, width] in [0, 1]."""
    return _coverage(scene.shape, poses, height, width)[0]


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Smooth periodic noise: low frequencies with random phases, float32 [TEXTURE, TEXTURE] in [0, 1]."""
    frequency = np.abs(np.fft.fftfreq(TEXTURE, 1 / TEXTURE))
    radius = np.hypot(frequency[:, None], frequency[: TEXTURE // 2 + 1][None, :])
    amplitude = np.where((radius >= 2) & (radius <= 14), 1 / np.maximum(radius, 1), 0)
    noise = np.fft.irfft2(amplitude * np.exp(2j * np.pi * rng.uniform(size=amplitude.shape)))
    noise = (noise - noise.min()) / np.ptp(noise)
    return noise.astype(np.float32)


def _background(scene: Scene, num_frames: int, height: int, width: int) -> np.ndarray:
    """Texture in the camera's window, in the background colour: float32 [F, H, W, 3] in [0, 255]."""
    time = np.linspace(0, 1, num_frames)
    amplitude, periods = scene.shake
    swing = amplitude * np.sin(2 * np.pi * periods * time)
    x = (scene.camera[0] + scene.pan[0] * time + swing)[:, None] + np.arange(width)  # [F, W]
    y = (scene.camera[1] + scene.pan[1] * time - swing)[:, None] + np.arange(height)  # [F, H]
    tone = _sample(scene.texture, y, x)[..., None]  # [F, H, W, 1]
    return (0.05 + 0.30 * tone) * np.float32(COLOURS[scene.ground])


def _sample(texture: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear samples of the periodic `texture` at the grid of y [F, H] and x [F, W]: float32 [F, H, W]."""
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right_share = (x - left).astype(np.float32)[:, None, :]
    bottom_share = (y - top).astype(np.float32)[:, :, None]
    left, top = left[:, None, :], top[:, :, None]
    rows = [
        (1 - right_share) * texture[row % TEXTURE, left % TEXTURE]
        + right_share * texture[row % TEXTURE, (left + 1) % TEXTURE]
        for row in (top, top + 1)
    ]
    return (1 - bottom_share) * rows[0] + bottom_share * rows[1]


def _coverage(shape: str, poses: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Coverage of each pixel by the shape and by its front half: float32 [F, H, W] each, in [0, 1]."""
    x, y, size, angle = (poses[:, i, None, None].astype(np.float32) for i in (X, Y, SIZE, ANGLE))  # [F, 1, 1] each
    radius = height * RADIUS[0] * (RADIUS[1] / RADIUS[0]) ** size
    right = np.arange(width, dtype=np.float32) + 0.5 - width / 2 - SPREAD * height * (x - 0.5)  # [F, 1, W]
    down = np.arange(height, dtype=np.float32)[:, None] + 0.5 - height / 2 - SPREAD * height * (y - 0.5)  # [F, H, 1]
    heading = np.deg2rad(TURN * (angle - 0.5) - 90)  # from the x axis, clockwise: y points down
    rim = radius * _rim(shape, np.arctan2(down, right) - heading)
    body = np.clip(rim - np.hypot(right, down) + 0.5, 0, 1)
    ahead = right * np.cos(heading) + down * np.sin(heading)
    return body, body * np.clip(ahead - 0.1 * radius + 0.5, 0, 1)


def _rim(shape: str, angle: np.ndarray) -> np.ndarray:
    """Distance, at most 1, from the centre to the outline at `angle` (radians, relative to the heading)."""
    match shape:
        case "circle":
            return np.float32(0.9)
        case "square":
            return _polygon_rim(angle, 4)
        case "triangle":
            return _polygon_rim(angle, 3)
        case "star":
            return 0.55 + 0.45 * np.abs(1 - 2 * ((angle * np.float32(5 / (2 * np.pi))) % 1))
        case "flower":
            return 0.75 + 0.25 * np.cos(6 * angle)
    raise ValueError(f"unknown shape {shape!r}: must be one of {SHAPES}")


def _polygon_rim(angle: np.ndarray, corners: int) -> np.ndarray:
    half = np.float32(np.pi / corners)
    return np.cos(half) / np.cos(angle % (2 * half) - half)
