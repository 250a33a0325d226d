"""Command-line arguments of build_records."""

import argparse
from collections.abc import Sequence
from typing import TypeVar

from dist_jax.build_records import datasets
from dist_jax.data import num_cores
from dist_jax.files import is_utf8, user_path

Number = TypeVar("Number", int, float)

SEGMENTS_PER_SHARD = 128  # 10 s of Kinetics with a short side of 256 take about 6 MB: a shard stays below 1 GB


def parse(argv: Sequence[str] | None, description: str) -> tuple[argparse.Namespace, list[str]]:
    """Parses and checks the arguments. Exits with status 2 if they are invalid.

    Args:
        argv: arguments without the program name; None: sys.argv.
        description: text for --help.

    Returns:
        The arguments, and the remaining ones (options of the Beam runner; empty without --runner).
    """
    parser = _parser(description)
    args, runner_options = parser.parse_known_args(argv)
    if runner_options and not args.runner:
        parser.error(f"unrecognized arguments: {' '.join(runner_options)}")
    if not args.list and not args.videos:
        parser.error("set --videos DIR (one subfolder per class), --list FILE, or both")
    if args.dataset and (args.list or not args.annotations or not args.videos):
        parser.error("--dataset requires --annotations PATH and --videos DIR, and excludes --list")
    if args.dataset == "epic100" and args.labels:
        parser.error("--labels is not supported for epic100: its own class files number the verbs and nouns")
    if args.name is None:
        args.name = args.split if args.dataset else "train"
    if not args.name or "/" in args.name or args.name.startswith(".") or not is_utf8(args.name):
        parser.error(f"--name {args.name!r}: expected a plain file name such as train")
    return args, runner_options


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "dist_jax.build_records",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_inputs(parser.add_argument_group("input"))
    _add_outputs(parser.add_argument_group("output"))
    _add_job_options(parser.add_argument_group("job"))
    return parser


def _add_inputs(inputs: argparse._ArgumentGroup) -> None:
    inputs.add_argument("--videos", type=user_path, help="folder of the videos (default: the folder of --list)")
    inputs.add_argument(
        "--list",
        type=user_path,
        help="file with lines `path label`, or a CSV file; default: --videos has one subfolder per class",
    )
    inputs.add_argument("--dataset", choices=datasets.DATASETS, help="format of --annotations: a public data set")
    inputs.add_argument(
        "--annotations", type=user_path, help="folder of the published annotation files (Kinetics: also one CSV file)"
    )
    inputs.add_argument(
        "--split",
        default="train",
        help="split of --dataset: train, val; Kinetics, epic100: also test; UCF101, HMDB51: train1, test1 (to 3), or "
        "train, test for the union of the three",
    )
    inputs.add_argument(
        "--trimmed", action="store_true", help="Kinetics: ID.mp4 is the 10 s segment, not the full YouTube video"
    )
    inputs.add_argument(
        "--labels",
        type=user_path,
        help="file of class names, e.g. labels.txt of the training split; default: sorted labels",
    )


def _add_outputs(outputs: argparse._ArgumentGroup) -> None:
    outputs.add_argument(
        "--output", type=user_path, required=True, help="folder of the records; created if needed; may be gs://"
    )
    outputs.add_argument("--name", help="name of the shards (default: --split with --dataset, otherwise train)")
    outputs.add_argument(
        "--shards", type=_positive, help=f"number of shards (default: one per {SEGMENTS_PER_SHARD} videos)"
    )
    outputs.add_argument("--fps", type=_fps, default=0.0, help="frames per second; 0 (default): all frames")
    outputs.add_argument(
        "--short-side",
        type=_non_negative,
        default=256,
        help="maximum short side of the frames in pixels; 0: no limit (default: %(default)s)",
    )
    outputs.add_argument(
        "--square-pixels",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="scale the width of frames with non-square pixels; DMVR's own generator keeps the stored pixels",
    )
    outputs.add_argument("--quality", type=_quality, default=90, help="JPEG quality, 1 to 100 (default: %(default)s)")


def _add_job_options(job: argparse._ArgumentGroup) -> None:
    job.add_argument(
        "--workers", type=_positive, default=num_cores(), help="number of processes (default: %(default)s, all cores)"
    )
    job.add_argument(
        "--max-failures",
        type=_non_negative,
        help="stop if more videos than this are unreadable (default: stop only if all are)",
    )
    job.add_argument("--retry-failed", action="store_true", help="rebuild the shards that have unreadable videos")
    job.add_argument("--overwrite", action="store_true", help="delete the existing records of this --name first")
    job.add_argument(
        "--runner", help="run the job with this Apache Beam runner, e.g. DirectRunner, and its own options"
    )


def _number(text: str, kind: type[Number], low: float, high: float, expected: str) -> Number:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}")
    return value


def _positive(text: str) -> int:
    return _number(text, int, 1, 99_999, "an integer from 1 to 99999")


def _non_negative(text: str) -> int:
    return _number(text, int, 0, 2**31, "an integer from 0")


def _fps(text: str) -> float:
    return _number(text, float, 0, 1000, "a number from 0 to 1000")


def _quality(text: str) -> int:
    return _number(text, int, 1, 100, "an integer from 1 to 100")
