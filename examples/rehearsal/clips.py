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

SECONDS = NUM_FRAMES // FPS  # of a part of a video


@dataclasses.dataclass(frozen=True)
class Part:
    """`SECONDS` of a video with one scene and one motion."""

    motion: str  # key of scenes.MOTIONS
    look: tuple[str, str] | None = None  # colour (key of scenes.COLOURS) and shape; None: random


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video file to render."""

    path: str  # relative, with the suffix .mp4 or .MP4
    parts: tuple[Part, ...]  # one after the other
    still_s: int = 0  # seconds without motion at the start


def render(clip: Clip, seed: Sequence[int]) -> np.ndarray:
    """Frames of a clip, uint8 [F, HEIGHT, WIDTH, 3]: still_s * FPS, then NUM_FRAMES of each part. Deterministic."""
    rng = np.random.default_rng(seed)
    still = [clip.still_s * FPS] + [0] * (len(clip.parts) - 1)
    return np.concatenate([_render_part(rng, part, n) for part, n in zip(clip.parts, still, strict=True)])


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


def _render_part(rng: np.random.Generator, part: Part, num_still: int) -> np.ndarray:
    """Frames of a part, after `num_still` copies of the first pose."""
    poses = scenes.random_poses(rng, part.motion, NUM_FRAMES)
    scene = scenes.random_scene(rng)
    if part.look is not None:
        colour, shape = part.look
        ground = str(rng.choice([name for name in scenes.COLOURS if name != colour]))
        scene = dataclasses.replace(scene, colour=colour, shape=shape, ground=ground)
    return scenes.draw(scene, np.concatenate([np.repeat(poses[:1], num_still, axis=0), poses]), HEIGHT, WIDTH)


def _write(job: tuple[int, Clip], folder: Path, seed: int) -> None:
    number, clip = job
    write_mp4(str(folder / clip.path), render(clip, (seed, number)))
