"""Measures a timeline with shared features against classification window by window, with random weights.

    python -m scripts.bench_timeline [--size b16] [--windows 40] [--single 3] [--hops 8] [--frames 16] [--dtype float32]

Both ways classify windows of a rendered video, and must give the same probabilities. Window by window, only the first
`--single` windows are classified, because that is slow. Compilation is not measured. Decoding is measured only for the
timeline. Processor time depends less on other load. The first window needs S frames, so few windows give a low ratio.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import jax
import jax.numpy as jnp
import numpy as np

from dist_jax.distributed.mesh import AXES, make_mesh
from dist_jax.inference import timeline
from dist_jax.inference.predictor import Predictor
from dist_jax.inference.video_classifier import read_crops
from dist_jax.inference.window_grid import WindowGrid
from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.models.dist_network import DistConfig
from dist_jax.models.layers import unit
from dist_jax.video import decoding
from dist_jax.weights import frozen, model_directory, table
from dist_jax.weights.clip import ClipModel

SIZES = {  # width, blocks, heads, patch size, embedding size
    "tiny": (128, 2, 2, 16, 64),
    "b16": (768, 12, 12, 16, 512),
    "l14": (1024, 24, 16, 14, 768),
}
NUM_CLASSES = 400
WINDOW_S, FPS = Fraction(4), 8

Result = TypeVar("Result")


def main() -> None:
    """Parses the flags, measures both ways and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="b16", help="size of CLIP; default %(default)s")
    parser.add_argument("--windows", type=int, default=40, help="number of windows; default %(default)s")
    parser.add_argument("--single", type=int, default=3, help="of them, classified alone; default %(default)s")
    parser.add_argument("--hops", type=int, default=8, help="hops per window; default %(default)s")
    parser.add_argument("--frames", type=int, default=16, help="T; CLIP sees half of them; default %(default)s")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default %(default)s")
    args = parser.parse_args()
    model = random_model(args.size, args.frames, jnp.dtype(args.dtype))
    text = unit(jax.random.normal(jax.random.key(1), (NUM_CLASSES, SIZES[args.size][-1])))
    grid = timeline.make_grid(model, WINDOW_S, WINDOW_S / args.hops)
    with tempfile.TemporaryDirectory() as folder:
        video = str(Path(folder) / "video.mp4")
        render(video, grid.end_of(args.windows - 1))
        clips = np.concatenate([read_window(video, grid, window) for window in range(args.single)])
        shared, shared_s = measure(lambda end: classify_shared(model, video, grid, text, end), grid, args.windows)
    single, single_s = measure(
        lambda end: classify_windows(model, clips[: grid.num_windows(end)], text), grid, args.single
    )
    difference = np.abs(shared[: args.single] - single).max()
    print(f"{args.size}, {args.frames // 2}+{args.frames} frames, {args.windows} windows, hop = window / {args.hops}")
    single_s, shared_s = single_s / args.single, shared_s / args.windows
    for name, (wall, processor) in (("window by window", single_s), ("shared features", shared_s)):
        print(f"{name:16}  {wall:8.3f} s per window, {processor:8.3f} s of processor time")
    wall, processor = single_s / shared_s
    print(f"{'ratio':16}  {wall:8.2f}                 {processor:8.2f}")
    print(f"largest difference of a probability: {difference:.1e}")


def measure(classify: Callable[[Fraction], Result], grid: WindowGrid, num_windows: int) -> tuple[Result, np.ndarray]:
    """The result for `num_windows` windows, and its wall and processor seconds after compilation."""
    classify(grid.end_of(0))
    start = np.array([time.perf_counter(), time.process_time()])
    result = classify(grid.end_of(num_windows - 1))
    return result, np.array([time.perf_counter(), time.process_time()]) - start


def classify_shared(model: Predictor, video: str, grid: WindowGrid, text: jax.Array, end: Fraction) -> np.ndarray:
    """Probabilities of the windows up to `end` with shared features, float32 [n, K]."""
    return np.stack([window.probabilities for window in timeline.classify_file(model, video, grid, text, end)])


def classify_windows(model: Predictor, clips: np.ndarray, text: jax.Array) -> np.ndarray:
    """Probabilities of clips uint8 [n, T, H, W, 3], one at a time: float32 [n, K]."""
    return np.concatenate([model.classify(clip[None], text) for clip in clips])


def read_window(path: str, grid: WindowGrid, window: int) -> np.ndarray:
    """The frames of a window, uint8 [1, T, H, W, 3]."""
    times = decoding.probe(path).times
    wanted = np.array([float(time) for time in grid.frame_times(window)])
    indices = np.maximum(np.searchsorted(times, wanted + decoding.TIME_TOLERANCE_S, side="right") - 1, 0)
    return read_crops(path, indices[None], 224, 1)[0]


def random_model(size: str, num_frames: int, dtype: jnp.dtype) -> Predictor:
    """A DiST model with random parameters on the first device."""
    width, num_layers, num_heads, patch_size, embed_dim = SIZES[size]
    vision = VisionConfig(width, num_layers, num_heads, patch_size, 224, embed_dim)
    dist = DistConfig(num_frames, 2, tuple(range(num_layers)), patch_size, width, embed_dim, 384, 96, 4)
    mesh = make_mesh(dict.fromkeys(AXES, 1), jax.local_devices()[:1])
    rng = np.random.default_rng(0)
    leaves = {}
    for path, shape in model_directory.param_shapes(dist, ClipBackbone(vision), num_classes=0).items():
        value = 0.02 * rng.standard_normal(shape, np.float32) + path.endswith("scale")
        if path == "clip/logit_scale":
            value = np.log(100.0)
        is_clip = path.startswith("clip/")
        leaves[path] = (
            frozen.place(mesh, dtype, "", path.removeprefix("clip/"), value) if is_clip else jnp.asarray(value)
        )
    tree = table.unflatten(leaves)
    return Predictor(
        model_directory.Model(dist, tree["dist"], ClipModel(vision, None, tree["clip"], None, size, "")), mesh, dtype
    )


def render(path: str, length: Fraction) -> None:
    """Writes a video of moving noise with 8 frames per second."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 512, 3), dtype=np.uint8)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 320, 256, "yuv420p"
        for number in range(int(length * FPS) + 1):
            pixels = np.ascontiguousarray(np.roll(noise, 5 * number, axis=1)[:, :320])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
