"""The demo's result: a table of accuracies, and a picture of how it learned and what it says of some videos.

python -m examples.demo.report --run demo/run --baseline demo/baseline.json --videos demo/videos --output report.png
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

STRIPS = 4  # videos that are shown
STRIP_FRAMES = 8  # frames of each


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="workdir of the DiST run")
    parser.add_argument("--baseline", type=Path, required=True, help="JSON file of examples.demo.baseline")
    parser.add_argument("--videos", type=Path, required=True, help="folder that the records' video names refer to")
    parser.add_argument("--output", type=Path, required=True, help="picture")
    args = parser.parse_args()
    for file in (args.run / "metrics.jsonl", args.run / "results" / "val.json", args.baseline):
        if not file.is_file():
            raise UserError(f"{file} is missing: the run or the baseline has not finished")
    result = json.loads((args.run / "results" / "val.json").read_text())
    print(table(json.loads(args.baseline.read_text())["top1"], result))
    draw(args.run, result, args.videos, args.output)
    print(f"picture: {args.output}")


def table(frozen: float, result: dict) -> str:
    """Accuracies beside each other, and DiST's for each class."""
    rows = [
        ("chance", 1 / len(result["classes"])),
        ("frozen tiny CLIP, frames averaged", frozen),
        ("DiST", result["top1"]),
        *((f"  {name}", accuracy) for name, accuracy in result["class_accuracy"].items() if accuracy is not None),
    ]
    lines = [f"{name:<36} {accuracy:>7.1%}" for name, accuracy in rows]
    return "\n".join([f"{'top-1 on ' + str(result['videos']) + ' validation videos':<36}", *lines])


def draw(run: Path, result: dict, videos: Path, output: Path) -> None:
    """Writes the picture: curves and confusion matrix above, strips of frames with predictions below."""
    figure = plt.figure(figsize=(12, 10), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.15))
    loss, accuracy, confusion = above.subplots(1, 3)
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    _curve(loss, steps, {"loss": "training"}, "loss")
    _curve(accuracy, steps, {"accuracy": "training", "eval_top1": "validation"}, "top-1 accuracy")
    accuracy.set_ylim(0, 1)
    _confusion(confusion, result)
    with (run / "results" / "val.csv").open() as stream:
        _strips(below, list(csv.DictReader(stream)), videos)
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
    names, places = result["classes"], range(len(result["classes"]))
    axes.set_xticks(places, names, rotation=45, ha="right")
    axes.set_yticks(places, names)
    axes.set(title="confusion (row: true)")


def _strips(figure: SubFigure, rows: list[dict], videos: Path) -> None:
    """Frames of the first video of some classes, its label, and the three best guesses."""
    first = {row["label"]: row for row in reversed(rows)}
    chosen = [first[label] for label in sorted(first)][:: max(1, len(first) // STRIPS)][:STRIPS]
    grid = figure.subplots(len(chosen), 2, width_ratios=(5, 1), squeeze=False)
    for (picture, bars), row in zip(grid, chosen, strict=True):
        picture.imshow(np.concatenate(read_frames(videos / row["video"], STRIP_FRAMES), axis=1))
        picture.set_title(row["label"], loc="left", fontsize=10)
        picture.axis("off")
        names, scores = zip(*((row[f"top{i}"], float(row[f"score{i}"])) for i in (3, 2, 1)), strict=True)
        bars.barh(range(3), scores, color="tab:blue")
        bars.set_yticks(range(3), names, fontsize=8)
        bars.set(xlim=(0, 1))


def read_frames(path: Path, count: int) -> list[np.ndarray]:
    """`count` frames of a video, evenly spread, each uint8 [H, W, 3]."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]


if __name__ == "__main__":
    exit_with_message(main)
