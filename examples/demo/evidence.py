"""Checks the attention maps of the demo's model: does the moving shape get more weight than its share of the area?

    python -m examples.demo.evidence --model demo/run --videos demo/videos [--count 240]

For each validation video and pooling layer: the share of the patch weights on the shape, mean over the frames of all
views, in comparison with the share of the area. A patch that the shape covers by half counts by half. Also prints the
weight of all patches together; the class token, if the backbone has one, has the rest.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import tqdm

import dist_jax
from dist_jax.errors import UserError, exit_with_message
from dist_jax.inference.explain import explain, weight_inside
from dist_jax.inference.predictor import Predictor
from dist_jax.inference.video_classifier import choose_frames, read_crops
from dist_jax.video.eval_views import short_side_crops
from examples.demo.render_videos import NUM_FRAMES, shape_mask


def main() -> None:
    """Prints one line per pooling layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model directory or workdir of the training run")
    parser.add_argument("--clip", default="", help="the demo's CLIP, if it has another path than in the training")
    parser.add_argument("--videos", type=Path, required=True, help="folder of the rendered videos")
    parser.add_argument("--count", type=int, default=240, help="number of validation videos (default: %(default)s)")
    args = parser.parse_args()
    lines = (args.videos / "val.txt").read_text().splitlines()
    if not 1 <= args.count <= len(lines):
        raise UserError(f"--count {args.count}: {args.videos} has 1 to {len(lines)} validation videos")
    seed = json.loads((args.videos / "settings.json").read_text())["seed"]
    model = dist_jax.load(args.model, clip=args.clip)
    shares = [
        shape_shares(model, args.videos, number, line.split(" ", 1)[1], seed)
        for number, line in enumerate(tqdm.tqdm(lines[: args.count], unit="video", disable=None))
    ]
    print(table(np.array(shares)))


def shape_shares(model: Predictor, videos: Path, number: int, motion: str, seed: int) -> np.ndarray:
    """What a video shows of each pooling layer: float [P, 3].

    Columns: share of the patch weights on the shape, weight of all patches, the shape's share of the area.
    """
    path = str(videos / "val" / f"{number:05d}.mp4")
    frame_indices = choose_frames(NUM_FRAMES, model.num_frames, model.eval_protocol)  # [V, T]
    views = read_crops(path, frame_indices, model.resolution, num_crops=1)[0]
    mask = np.round(255 * shape_mask("val", number, motion, seed)).astype(np.uint8)[..., None].repeat(3, axis=-1)
    mask = short_side_crops(mask, model.resolution, num_crops=1)[0, ..., 0] / 255  # [F, H, W]
    num_layers = model.attention(views[:1]).frames.shape[1]
    evidence = [explain(model, path, views, layer) for layer in range(num_layers)]
    alpha = views.shape[1] // evidence[0].frames.shape[1]
    mask = mask[frame_indices[:, ::alpha]]  # [V, S, H, W]
    return np.array(
        [
            (weight_inside(layer, mask).mean(), layer.patch_weights.sum(axis=(-2, -1)).mean(), mask.mean())
            for layer in evidence
        ]
    )


def table(shares: np.ndarray) -> str:
    """Formats shares [videos, P, 3] (see `shape_shares`), one line per pooling layer."""
    lines = [f"{len(shares)} videos; the shape covers {shares[..., 2].mean():.1%} of the frame"]
    for number, (weight, patches, area) in enumerate(shares.transpose(1, 2, 0), start=1):
        lines.append(
            f"pooling layer {number}: {weight.mean():.1%} of the weight is on the shape; more than its share of the "
            f"area in {np.mean(weight > area):.1%} of the videos (all patches: {patches.mean():.1%} of the weight of "
            "all tokens)"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with_message(main)
