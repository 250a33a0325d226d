"""Report of the demo: a table of accuracies; a picture with training curves and predictions.

python -m examples.demo.report --run demo/run --videos demo/videos --output report.png
"""

import argparse
import csv
import json
from pathlib import Path

import av
import matplotlib
import numpy as np

from dist_jax.errors import UserError, exit_with_message

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import SubFigure

NUM_STRIPS = 4  # videos in the picture
STRIP_FRAMES = 8  # frames per video


def main() -> None:
    """Prints the table and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="workdir of the training run")
    parser.add_argument("--videos", type=Path, required=True, help="folder of the rendered videos")
    parser.add_argument("--output", type=Path, required=True, help="output file of the picture")
    args = parser.parse_args()
    for file in (args.run / "metrics.jsonl", args.run / "results" / "val.json"):
        if not file.is_file():
            raise UserError(f"{file} is missing: finish the training run first")
    result = json.loads((args.run / "results" / "val.json").read_text())
    print(table(result))
    draw(args.run, result, args.videos, args.output)
    print(f"picture: {args.output}")


def table(result: dict) -> str:
    """Table of the accuracies of chance and DiST, and of DiST per class."""
    rows = [
        ("chance", 1 / len(result["classes"])),
        ("DiST", result["top1"]),
        *((f"  {name}", accuracy) for name, accuracy in result["class_accuracy"].items() if accuracy is not None),
    ]
    lines = [f"{name:<36} {accuracy:>7.1%}" for name, accuracy in rows]
    return "\n".join([f"{'top-1 on ' + str(result['videos']) + ' validation videos':<36}", *lines])


def draw(run: Path, result: dict, videos: Path, output: Path) -> None:
    """Writes the picture: curves and confusion matrix at the top, frames with predictions at the bottom."""
    figure = plt.figure(figsize=(12, 10), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.15))
    loss, accuracy, confusion = top.subplots(1, 3)
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    _curve(loss, steps, {"loss": "training"}, "loss")
    _curve(accuracy, steps, {"accuracy": "training", "eval_top1": "validation"}, "top-1 accuracy")
    accuracy.set_ylim(0, 1)
    _confusion(confusion, result)
    with (run / "results" / "val.csv").open() as stream:
        _strips(bottom, list(csv.DictReader(stream)), videos)
    figure.savefig(output, dpi=80)
    plt.close(figure)


def _curve(axes: plt.Axes, steps: list[dict], series: dict[str, str], title: str) -> None:
    for key, name in series.items():
        points = [(line["step"], line[key]) for line in steps if key in line]
        axes.plot(*np.transpose(points), label=name, marker="o" if len(points) < 20 else None)
    axes.set(xlabel="step", title=title)
    axes.grid(alpha=0.3)
    axes.legend()


def _confusion(axes: plt.Axes, result: dict) -> None:
    counts = np.array(result["confusion"])  # [K true, K predicted]
    axes.imshow(counts, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(column, row, count, ha="center", va="center", color="white" if row == column else "black")
    names, positions = result["classes"], range(len(result["classes"]))
    axes.set_xticks(positions, names, rotation=45, ha="right")
    axes.set_yticks(positions, names)
    axes.set(title="confusion matrix (rows: true class)")


def _strips(figure: SubFigure, rows: list[dict], videos: Path) -> None:
    """For one video of each of NUM_STRIPS classes: frames, label and the top three predictions."""
    first = {row["label"]: row for row in reversed(rows)}
    selected = [first[label] for label in sorted(first)][:: max(1, len(first) // NUM_STRIPS)][:NUM_STRIPS]
    grid = figure.subplots(len(selected), 2, width_ratios=(5, 1), squeeze=False)
    for (picture, bars), row in zip(grid, selected, strict=True):
        picture.imshow(np.concatenate(read_frames(videos / row["video"], STRIP_FRAMES), axis=1))
        picture.set_title(row["label"], loc="left", fontsize=10)
        picture.axis("off")
        names, scores = zip(*((row[f"top{i}"], float(row[f"score{i}"])) for i in (3, 2, 1)), strict=True)
        bars.barh(range(3), scores, color="tab:blue")
        bars.set_yticks(range(3), names, fontsize=8)
        bars.set(xlim=(0, 1))


def read_frames(path: Path, num_frames: int) -> list[np.ndarray]:
    """`num_frames` evenly spaced frames of a video, each uint8 [H, W, 3]."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [frames[i] for i in np.linspace(0, len(frames) - 1, num_frames).round().astype(int)]


if __name__ == "__main__":
    exit_with_message(main)
