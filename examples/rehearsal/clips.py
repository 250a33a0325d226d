"""Renders clips of the demo's scenes at the paths of a published data set."""

import dataclasses
import functools
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tqdm

from examples.demo import scenes
from examples.demo.render_videos import FPS, HEIGHT, NUM_FRAMES, WIDTH, write_mp4

SECONDS = NUM_FRAMES // FPS  # of the moving part of a clip


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video file to render."""

    path: str  # relative, with the suffix .mp4
    motion: str  # key of scenes.MOTIONS
    look: tuple[str, str] | None = None  # colour (key of scenes.COLOURS) and shape; None: random
    still_s: int = 0  # seconds without motion before the moving part


def render(clip: Clip, seed: Sequence[int]) -> np.ndarray:
    """Frames of a clip, uint8 [still_s * FPS + NUM_FRAMES, HEIGHT, WIDTH, 3]. Deterministic in the arguments."""
    rng = np.random.default_rng(seed)
    poses = scenes.random_poses(rng, clip.motion, NUM_FRAMES)
    scene = scenes.random_scene(rng)
    if clip.look is not None:
        colour, shape = clip.look
        ground = str(rng.choice([name for name in scenes.COLOURS if name != colour]))
        scene = dataclasses.replace(scene, colour=colour, shape=shape, ground=ground)
    still = np.repeat(poses[:1], clip.still_s * FPS, axis=0)
    return scenes.draw(scene, np.concatenate([still, poses]), HEIGHT, WIDTH)


def in_folder(clip: Clip, folder: str) -> Clip:
    """The clip at FOLDER/PATH."""
    return dataclasses.replace(clip, path=f"{folder}/{clip.path}")


def render_all(clips: Sequence[Clip], folder: Path, seed: int) -> None:
    """Writes all clips below `folder`, in one process per core."""
    for parent in {(folder / clip.path).parent for clip in clips}:
        parent.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        write = functools.partial(_write, folder=folder, seed=seed)
        work = pool.imap_unordered(write, enumerate(clips), chunksize=8)
        for _ in tqdm.tqdm(work, total=len(clips), desc="rendering", unit="video", disable=None):
            pass


def _write(job: tuple[int, Clip], folder: Path, seed: int) -> None:
    number, clip = job
    write_mp4(str(folder / clip.path), render(clip, (seed, number)))
