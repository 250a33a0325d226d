"""Classifies video files with a trained model, or with plain CLIP.

    python -m dist_jax.predict --model DIR --video x.mp4 [--video y.mp4]
        [--labels "a,b,c" | --labels labels.txt] [--label-key verb] [--top 5] [--json out.json] [--plot out.png]
        [--explain out.png] [--no-square-pixels]
    python -m dist_jax.predict --model openai/clip-vit-base-patch16 --labels "a,b,c" --video x.mp4
    python -m dist_jax.predict --model DIR --video long.mp4 --timeline [--window 10s --hop 1s --start 0 --end 1h]
        [--csv out.csv] [--json out.json] [--plot out.png]
    python -m dist_jax.predict --model DIR --live URL|DEVICE|- [--window 10s --hop 1s] [--json -]

Views and crops are those of the evaluation protocol; their probabilities are averaged. Unreadable videos are skipped
and listed at the end; the exit status is then 1. A long plot continues in out-2.png, out-3.png, ...
--explain draws attention weights over the frames and patches, one picture per video (docs/evidence.md).

--timeline classifies windows of one video and prints the segments with the same most probable class. --live prints one
line per window as it comes.
"""

import argparse
import json
from collections.abc import Sequence

import jax

import dist_jax
from dist_jax import compilation_cache
from dist_jax.errors import UserError, exit_with_message
from dist_jax.files import user_path
from dist_jax.inference import timeline_command
from dist_jax.inference.class_choice import choose_classes
from dist_jax.inference.evidence_plots import EvidencePictures
from dist_jax.inference.output_files import STDOUT, check_output, check_picture, write_output
from dist_jax.inference.plots import PredictionPages
from dist_jax.inference.predictor import Predictor
from dist_jax.inference.video_classifier import Prediction, classify_video
from dist_jax.video.decoding import VideoError

BAR_LENGTH = 24  # characters of a bar for probability 1


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments `argv`; default: those of the process."""
    args = _parser().parse_args(argv)
    if args.top < 1:
        raise UserError(f"--top {args.top}: must be at least 1")
    timeline_command.check_arguments(args)
    check_outputs(args)
    model = dist_jax.load(args.model, label=args.label_key)
    names, text_features = choose_classes(model, args.model, args.labels)
    if args.timeline:
        timeline_command.run_timeline(args, model, names, text_features)
    elif args.live:
        timeline_command.run_live(args, model, names, text_features)
    else:
        classify_videos(args, model, names, text_features)


def check_outputs(args: argparse.Namespace) -> None:
    """Raises UserError for output files that cannot be written, before the model is loaded."""
    for name, check in (
        ("csv", check_output),
        ("json", check_output),
        ("plot", check_picture),
        ("explain", check_picture),
    ):
        if path := getattr(args, name):
            check(f"--{name}", path)


def classify_videos(
    args: argparse.Namespace, model: Predictor, names: Sequence[str], text_features: jax.Array | None
) -> None:
    """Prints and writes the predictions for each video. The JSON file is also written after an error.

    Raises:
        UserError: some videos cannot be read, after the others.
    """
    pages = PredictionPages(args.plot) if args.plot else None
    evidence = EvidencePictures(model, args.explain) if args.explain else None
    results: list[dict] = []
    errors: list[str] = []
    try:
        for path in args.video:
            try:
                prediction = classify_video(model, path, names, text_features, args.top, args.square_pixels)
            except VideoError as error:
                errors.append(str(error))
                continue
            results.append(prediction.as_dict())
            if args.json != STDOUT:
                print(as_table(prediction), end="\n\n", flush=True)
            if pages:
                pages.add(prediction)
            if evidence:
                evidence.add(prediction)
    finally:
        if args.json:
            write_output("--json", args.json, json.dumps(results, indent=1) + "\n")
    if pages:
        pages.finish()
    if errors:
        raise UserError(f"{len(errors)} of {len(args.video)} videos could not be read: {'; '.join(errors)}")


def as_table(prediction: Prediction) -> str:
    """Formats a prediction for a terminal, one class per line."""
    width = max(map(len, prediction.class_names))
    lines = [
        f"  {name:<{width}}  {100 * p:5.1f} %  {'█' * round(BAR_LENGTH * float(p))}"
        for name, p in zip(prediction.class_names, prediction.probabilities, strict=True)
    ]
    return "\n".join([f"{prediction.path} ({prediction.views_summary})", *lines])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dist_jax.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        type=user_path,
        required=True,
        help="model directory, training workdir or published .pyth file; or plain CLIP: hub id, directory or file",
    )
    parser.add_argument(
        "--video", type=user_path, action="append", default=[], help="video file; repeat for more videos"
    )
    parser.add_argument(
        "--labels",
        type=user_path,
        help="class names, comma-separated or in a file; default: the classes of the model",
    )
    parser.add_argument("--label-key", default="", help="label of a workdir with several labels, e.g. verb")
    parser.add_argument("--top", type=int, default=5, help="number of classes to show; default 5")
    parser.add_argument(
        "--json", type=user_path, default="", help="output file for the predictions; - for standard output"
    )
    parser.add_argument("--plot", type=user_path, default="", help="output file for a plot (.png, .pdf, .svg)")
    parser.add_argument(
        "--explain", type=user_path, default="", help="output file for attention weights; video n: FILE-n (DiST only)"
    )
    parser.add_argument(
        "--square-pixels",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="scale the width of frames with non-square pixels, as build_records does by default",
    )
    timeline_command.add_arguments(parser)
    return parser


if __name__ == "__main__":
    compilation_cache.enable("auto")
    exit_with_message(main)
