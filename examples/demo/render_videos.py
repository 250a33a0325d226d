"""Renders the demo's data set: H.264 mp4 files and the video lists of the train and val splits.

    python -m examples.demo.render_videos --output demo/videos

OUTPUT/train.txt and OUTPUT/val.txt contain lines `path label`, with paths relative to OUTPUT.
"""

import argparse
import functools
import json
import multiprocessing
import os
from pathlib import Path

import av
import numpy as np
import tqdm

from dist_jax.errors import UserError, exit_with_message
from examples.demo import scenes

HEIGHT, WIDTH = 80, 96  # pixels
NUM_FRAMES, FPS = 24, 12  # two seconds
SPLITS = ("train", "val")


def main() -> None:
    """Renders both splits."""
    args = _parser().parse_args()
    if min(args.train, args.val, args.workers) < 1:
        raise UserError(f"--train {args.train} --val {args.val} --workers {args.workers}: all must be at least 1")
    output = Path(args.output)
    counts = {"train": args.train, "val": args.val}
    if finished(output, counts, args.seed):
        print(f"render_videos: {output} already contains {args.train} + {args.val} videos")
        return
    for split in SPLITS:
        render_split(output, split, counts[split], args.seed, args.workers)
    write_settings(output, counts, args.seed)
    print(f"render_videos: {args.train} + {args.val} videos in {output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder for the videos and the lists")
    parser.add_argument("--train", type=int, default=1200, help="number of training videos (default: %(default)s)")
    parser.add_argument("--val", type=int, default=240, help="number of validation videos (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="number of processes (default: one per core)"
    )
    return parser


def finished(output: Path, counts: dict[str, int], seed: int) -> bool:
    """True if `output` contains the complete data set. Raises UserError if it was rendered with other settings."""
    path = output / "settings.json"
    if not path.exists():
        return False
    existing, expected = json.loads(path.read_text()), {**counts, "seed": seed}
    if existing != expected:
        raise UserError(f"{output} was rendered with {existing}, not {expected}: use another --output or delete it")
    return True


def write_settings(output: Path, counts: dict[str, int], seed: int) -> None:
    """Marks `output` as complete. Call it last."""
    (output / "settings.json").write_text(json.dumps({**counts, "seed": seed}) + "\n")


def render_split(output: Path, split: str, count: int, seed: int, workers: int) -> None:
    """Writes `count` videos to OUTPUT/SPLIT/00000.mp4, ... and the list to OUTPUT/SPLIT.txt."""
    (output / split).mkdir(parents=True, exist_ok=True)
    motions = balanced_motions(split, count, seed)
    names = [f"{split}/{number:05d}.mp4" for number in range(count)]
    jobs = [
        (str(output / name), motion, number) for number, (name, motion) in enumerate(zip(names, motions, strict=True))
    ]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        work = pool.imap_unordered(functools.partial(_render_job, split=split, seed=seed), jobs, chunksize=8)
        for _ in tqdm.tqdm(work, total=count, desc=f"rendering {split}", unit="video", disable=None):
            pass
    lines = [f"{name} {motion}\n" for name, motion in zip(names, motions, strict=True)]
    (output / f"{split}.txt").write_text("".join(lines))


def balanced_motions(split: str, count: int, seed: int) -> list[str]:
    """Class of every video, shuffled. Class sizes differ by at most one."""
    classes = list(scenes.MOTIONS)
    order = np.random.default_rng([seed, SPLITS.index(split)]).permutation(count)
    return [classes[i % len(classes)] for i in order]


def render_clip(split: str, number: int, motion: str, seed: int) -> np.ndarray:
    """Frames of one video, uint8 [NUM_FRAMES, HEIGHT, WIDTH, 3]. Deterministic in the arguments."""
    return scenes.draw(*_scene_and_poses(split, number, motion, seed), HEIGHT, WIDTH)


def shape_mask(split: str, number: int, motion: str, seed: int) -> np.ndarray:
    """Coverage of each pixel by the shape in `render_clip`: float32 [NUM_FRAMES, HEIGHT, WIDTH] in [0, 1]."""
    return scenes.shape_mask(*_scene_and_poses(split, number, motion, seed), HEIGHT, WIDTH)


def _scene_and_poses(split: str, number: int, motion: str, seed: int) -> tuple[scenes.Scene, np.ndarray]:
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    poses = scenes.random_poses(rng, motion, NUM_FRAMES)
    return scenes.random_scene(rng), poses


def write_mp4(path: str, frames: np.ndarray) -> None:
    """Encodes uint8 RGB frames [F, H, W, 3] as H.264 at FPS frames per second. H and W must be even."""
    with av.open(path, "w") as container:
        # One thread and cpu-independent=1: otherwise the bytes differ between runs.
        options = {"crf": "18", "preset": "veryfast", "x264-params": "cpu-independent=1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _render_job(job: tuple[str, str, int], split: str, seed: int) -> None:
    path, motion, number = job
    write_mp4(path, render_clip(split, number, motion, seed))


if __name__ == "__main__":
    exit_with_message(main)
