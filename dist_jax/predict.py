"""Says what a video shows.

    python -m dist_jax.predict --model DIR --video x.mp4 [--video y.mp4]
        [--labels "a,b,c" | --labels labels.txt] [--top 5] [--json out.json] [--plot out.png]

Frames are taken as in evaluation: V temporal views of T frames each, whose probabilities are averaged. A video that
cannot be read is told at the end and does not keep the others from being looked at. A long picture goes on in files
beside the first: out.png, out-2.png, ...
"""

import argparse
import dataclasses
import json
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

import dist_jax
from dist_jax import class_names
from dist_jax.errors import UserError, exit_with_message
from dist_jax.video import decoding
from dist_jax.video.eval_views import short_side_crops, temporal_views
from dist_jax.weights.model_directory import EvalProtocol

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAR = 24  # characters of a full bar in the terminal
BAR_INCHES = 0.45  # height of a bar with its name in the picture
DPI = 110
PAGE_INCHES = 150  # height of a picture, unless one video needs more
LARGEST_INCHES = 65_000 / DPI  # what matplotlib can draw: below 65,536 pixels


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What was looked at in a video, and what was seen."""

    path: str
    indices: np.ndarray  # numbers of the frames that were looked at, int [V, T]
    frames: np.ndarray  # as the network saw them (the centre crop, of three), uint8 [V, T, H, W, 3]
    names: list[str]  # the most probable first
    probabilities: np.ndarray  # of `names`, float32


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program."""
    args = _arguments().parse_args(argv)
    if args.top < 1:
        raise UserError(f"--top {args.top}: must be at least 1")
    model = dist_jax.load(args.model)
    names = read_labels(args.labels) if args.labels else model.class_names
    if not names:
        raise UserError(f'{args.model} has no class names of its own; give --labels "a,b,c" or a file of them')
    text = model.encode_text(names) if args.labels else None
    found, failed = [], []
    pages = Pages(args.plot) if args.plot else None
    for path in args.video:
        try:
            one = predict(model, path, names, text, args.top)
        except decoding.VideoError as error:
            failed.append(str(error))
            continue
        print(as_table(one), end="\n\n", flush=True)
        found.append(as_dict(one))
        if pages:
            pages.add(one)
    if args.json:
        try:
            Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"--json {args.json}: {error}") from error
    if pages:
        pages.finish()
    if failed:
        raise UserError(f"{len(failed)} of {len(args.video)} videos could not be read: {'; '.join(failed)}")


def read_labels(labels: str) -> list[str]:
    """The names in a file (one a line), or those that are written out with commas between them."""
    if os.path.isfile(labels):  # which, unlike Path's, takes names that are too long for a file
        return class_names.read(Path(labels))
    if labels.endswith(".txt"):
        raise UserError(f"--labels {labels}: no such file")
    names = [name.strip() for name in labels.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise UserError(f"--labels {labels!r}: a name is empty or there twice")
    return names


def predict(model: dist_jax.Predictor, path: str, names: Sequence[str], text: jax.Array | None, top: int) -> Prediction:
    """Classifies the video at `path`: probabilities averaged over its views, one view on the device at a time.

    Args:
        model: from `dist_jax.load`.
        path: a video file.
        names: of the K classes.
        text: their features float32 [K, E]; None: the model's own classes.
        top: how many of the most probable are wanted.

    Raises:
        VideoError: if the video cannot be read.
    """
    indices = choose_frames(decoding.probe(path).frames, model.num_frames, model.evaluation)  # [V, T]
    clips = read_clips(path, indices, model.resolution, model.evaluation.num_crops)  # [crops, V, T, H, W, 3]
    views = clips.reshape(-1, *clips.shape[2:])
    scores = [model.classify(view[None], text, model.evaluation.zero_shot_weight) for view in views]
    probabilities = np.mean(np.concatenate(scores), axis=0)  # [K]
    best = np.argsort(-probabilities, kind="stable")[:top]
    return Prediction(path, indices, clips[len(clips) // 2], [names[i] for i in best], probabilities[best])


def choose_frames(count: int, frames: int, evaluation: EvalProtocol) -> np.ndarray:
    """Which of `count` frames the recipe looks at: int32 [V, T]."""
    return temporal_views(count, evaluation.sampling, frames, evaluation.stride, evaluation.num_views)


def read_clips(path: str, indices: np.ndarray, resolution: int, num_crops: int) -> np.ndarray:
    """Decodes the frames `indices` [V, T] and scales and crops them as in evaluation: uint8 [crops, V, T, H, W, 3].

    A larger video is first reduced to 8/7 of the resolution (256 pixels for 224), as records hold it.
    """
    distinct, order = np.unique(indices, return_inverse=True)
    pixels = decoding.decode_frames(path, distinct.tolist(), short_side=round(resolution * 8 / 7))
    return short_side_crops(pixels, resolution, num_crops)[:, order.reshape(indices.shape)]


def as_table(found: Prediction) -> str:
    """The prediction for a terminal, a class a line."""
    width = max(map(len, found.names))
    views, frames = found.indices.shape
    lines = [
        f"{name:<{width}}  {100 * p:5.1f} %  {'█' * round(BAR * float(p))}"
        for name, p in zip(found.names, found.probabilities, strict=True)
    ]
    return "\n".join([f"{found.path} ({views} views of {frames} frames)", *(f"  {line}" for line in lines)])


def as_dict(found: Prediction) -> dict:
    """The prediction for JSON."""
    classes = [
        {"label": name, "probability": float(p)} for name, p in zip(found.names, found.probabilities, strict=True)
    ]
    return {"video": found.path, "frames": found.indices.tolist(), "predictions": classes}


class Pages:
    """The pictures of many videos, drawn as soon as one is full: the frames of few videos are kept at a time."""

    def __init__(self, path: str) -> None:
        """`path` is that of the first picture; the others get numbers from 2."""
        self._path, self._drawn = Path(path), 0
        self._waiting: list[Prediction] = []

    def add(self, one: Prediction) -> None:
        """Takes a video into the picture that is being filled, or begins the next."""
        if self._waiting and sum(map(_height, [*self._waiting, one])) > PAGE_INCHES:
            self.finish()
        self._waiting.append(one)

    def finish(self) -> None:
        """Draws what is waiting."""
        if self._waiting:
            self._drawn += 1
            number = f"-{self._drawn}" if self._drawn > 1 else ""
            plot(self._waiting, str(self._path.with_stem(self._path.stem + number)))
            self._waiting = []


def plot(found: Sequence[Prediction], path: str) -> None:
    """A picture (its kind by the ending of `path`): for each video the frames that were looked at, and bars."""
    from matplotlib.figure import Figure  # no pyplot: no window system is touched

    height = 0.4 + sum(map(_height, found))
    figure = Figure(figsize=(12, height), layout="constrained")
    rows = figure.subplots(
        len(found), 2, squeeze=False, width_ratios=(3, 1.3), height_ratios=[_height(one) for one in found]
    )
    for (left, right), one in zip(rows, found, strict=True):
        left.imshow(montage(one.frames))
        left.set_title(f"{Path(one.path).name}: {len(one.indices)} views of {one.indices.shape[1]} frames", loc="left")
        left.axis("off")
        _bars(right, one)
    try:
        figure.savefig(path, dpi=DPI * min(1, LARGEST_INCHES / height))
    except (ValueError, OSError) as error:
        raise UserError(f"--plot {path}: {error}") from error


def montage(views: np.ndarray, columns: int = 8, gap: int = 4) -> np.ndarray:
    """Frames uint8 [V, T, H, W, 3] as one picture, `columns` in a line, a wider gap between views: uint8 [h, w, 3]."""
    _, frames, height, width, _ = views.shape
    columns = min(columns, frames)
    lines = -(-frames // columns)
    block = lines * (height + gap) + 3 * gap  # of a view
    picture = np.full((len(views) * block - 4 * gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for view, clip in enumerate(views):
        for number, frame in enumerate(clip):
            top = view * block + number // columns * (height + gap)
            left = number % columns * (width + gap)
            picture[top : top + height, left : left + width] = frame
    return picture


def _height(one: Prediction) -> float:
    """Inches that a video needs: its frames are 8.3 inches wide together; a bar and its name take BAR_INCHES."""
    height, width, _ = montage(one.frames).shape
    return max(8.3 * height / width, BAR_INCHES * len(one.names)) + 0.5


def _bars(axes: "Axes", one: Prediction) -> None:
    places = np.arange(len(one.names))
    axes.barh(places, one.probabilities, height=0.35, color="#4269d0", align="edge")
    for place, name, p in zip(places, one.names, one.probabilities, strict=True):
        label = f"{textwrap.shorten(name, 40, placeholder=' ...')}  {100 * p:.1f} %"
        axes.text(0, place - 0.06, label, va="bottom", fontsize=9, parse_math=False)
    axes.set_xlim(0, 1)
    axes.set_ylim((_height(one) - 0.5) / BAR_INCHES - 0.5, -0.5)  # the first bar on top, whatever the height
    axes.axis("off")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dist_jax.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", required=True, help="a model directory, a training workdir or a published .pyth file"
    )
    parser.add_argument("--video", action="append", required=True, help="video file; may be given several times")
    parser.add_argument(
        "--labels",
        default="",
        help="what to choose from: names with commas, or a file of them; default: the model's own",
    )
    parser.add_argument("--top", type=int, default=5, help="how many classes to show")
    parser.add_argument("--json", default="", help="file to write the predictions to")
    parser.add_argument("--plot", default="", help="picture to draw (.png, .pdf, .svg)")
    return parser


if __name__ == "__main__":
    exit_with_message(main)
