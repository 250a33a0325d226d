r"""Videos to DMVR TFRecords: `python -m dist_jax.build_records`.

A folder of videos and a list (lines `path label`, or a CSV with the header path,label[,start,end]):

    python -m dist_jax.build_records --videos clips --list train.txt --output records --name train
    python -m dist_jax.build_records --videos clips --list val.txt --output records --name val \
        --labels records/labels.txt

Without --list, --videos holds a folder per class. Public data sets are read as they were published:

    python -m dist_jax.build_records --dataset ssv2 --annotations labels --videos 20bn-something-something-v2 \
        --split train --output records/ssv2

(dist_jax/data/datasets.py says what is read; kinetics710 merges the three Kinetics.) The output,
OUTPUT/NAME-00000-of-00016 and so on, stands beside labels.txt (class names in the order of their numbers),
NAME.index.npz (where each record begins) and failed.csv (the videos that could not be read, with the reason). The clips
are spread over the shards by a hash, and a shard's bytes depend on nothing but the list and the settings.
A job that is started again keeps finished shards.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from dist_jax import files
from dist_jax.build_records import datasets, jobs, runners, shards
from dist_jax.data import num_cores
from dist_jax.errors import UserError, exit_with_message
from dist_jax.video import video_list

_LIST_SECONDS = 5.0  # from one writing of failed.csv to the next, at least, while shards are built
_CLIPS_PER_SHARD = 128  # ten seconds of Kinetics at a short side of 256 are about 6 MB: shards below 1 GB


def main(argv: Sequence[str] | None = None) -> int:
    """Builds the records that the command line asks for; the exit status."""
    args, runner_options = _parse(argv)
    source = _annotations(args)
    videos = _absolute(args.videos or os.path.dirname(args.list))
    jobs.check_videos(source.clips, videos)
    plan = shards.Plan(
        clips=shards.spread(source.clips),
        labels=tuple(source.labels),
        shards=args.shards or -(-len(source.clips) // _CLIPS_PER_SHARD),
        fps=args.fps,
        short_side=args.short_side,
        quality=args.quality,
    )
    prefix = os.path.join(_absolute(args.output), args.name)
    jobs.prepare(prefix, plan, videos, args.overwrite)
    for name, text in source.files.items():
        files.write_text(os.path.join(args.output, name), text)
    reports = _build(prefix, plan, args, runner_options)
    _finish(prefix, reports)
    return 0


def _annotations(args: argparse.Namespace) -> datasets.Annotations:
    """The clips that the command line names, with labels that are among the class names."""
    labels = video_list.read_class_names(args.labels) if args.labels else None
    if args.dataset:
        source = datasets.read(args.dataset, args.annotations, args.videos, args.split, args.trimmed, labels)
        if source.note:
            print(source.note)
        return source
    clips = video_list.read_list(args.list, labels) if args.list else video_list.read_folders(args.videos)
    names = labels or sorted({clip.label for clip in clips})
    video_list.check_labels(clips, names)
    return datasets.Annotations(clips, names)


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        "dist_jax.build_records",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--videos", help="folder of the videos; default: the list's folder")
    parser.add_argument("--list", help="lines `path label`, or a CSV; without it --videos holds a folder per class")
    parser.add_argument(
        "--dataset", choices=datasets.DATASETS, help="read --annotations as this data set publishes them"
    )
    parser.add_argument("--annotations", help="folder of the published files (Kinetics: or a CSV file)")
    parser.add_argument("--split", default="train", help="of --dataset: train, val; train1, test1 (UCF101, HMDB51)")
    parser.add_argument("--trimmed", action="store_true", help="Kinetics: ID.mp4 is the clip, not the whole video")
    parser.add_argument("--labels", help="file of class names (of the training split, say); default: alphabetical")
    parser.add_argument("--output", required=True, help="folder of the records; made if needed; gs:// too")
    parser.add_argument("--name", help="of this set of shards; default: --split with --dataset, else train")
    parser.add_argument("--shards", type=_count, help=f"number of files; default: one per {_CLIPS_PER_SHARD} clips")
    parser.add_argument("--fps", type=_rate, default=0.0, help="frames a second; 0 (default): the video's own")
    parser.add_argument("--short-side", type=_size, default=256, help="pixels, only ever reduced to it; 0: as it is")
    parser.add_argument("--quality", type=_quality, default=90, help="of the JPEGs, 1 to 100 (default: %(default)s)")
    parser.add_argument("--workers", type=_count, default=num_cores(), help="processes (default: %(default)s, the cores)")
    parser.add_argument(
        "--max-failures", type=_size, help="unreadable videos that are tolerated; default: any number short of all"
    )
    parser.add_argument("--retry-failed", action="store_true", help="build shards again that lack an unreadable video")
    parser.add_argument("--overwrite", action="store_true", help="discard what OUTPUT holds under this name")
    parser.add_argument("--runner", help="of Apache Beam, e.g. DirectRunner; its own flags may follow")
    args, rest = parser.parse_known_args(argv)
    if rest and not args.runner:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if not args.list and not args.videos:
        parser.error("give --videos DIR (a folder per class), --list FILE, or both")
    if args.dataset and (args.list or not args.annotations or not args.videos):
        parser.error("--dataset goes with --annotations PATH and --videos DIR, and without --list")
    if args.dataset == "epic100" and args.labels:
        parser.error("epic100 has verbs and nouns, numbered by its own class files: leave --labels out")
    if args.name is None:
        args.name = args.split if args.dataset else "train"
    if not args.name or "/" in args.name or args.name.startswith("."):
        parser.error(f"--name {args.name!r}: wanted a plain file name such as train")
    return args, rest


def _build(
    prefix: str, plan: shards.Plan, args: argparse.Namespace, runner_options: Sequence[str]
) -> list[shards.Report]:
    """Builds what is not finished; the reports of all shards."""
    reports = jobs.finished(prefix, plan)
    if args.retry_failed:
        reports = {number: report for number, report in reports.items() if not report.failures}
    todo = [number for number in range(plan.shards) if number not in reports]
    if reports:
        print(f"{prefix}: {len(reports)} of {plan.shards} shards are finished and kept")
    if todo:
        jobs.drop_index(prefix)
    if args.runner and todo:
        runners.run_beam(prefix, todo, args.runner, runner_options)
        reports = jobs.finished(prefix, plan)
    elif todo:
        done = sum(len(plan.of_shard(number)) for number in reports)
        with tqdm(total=len(plan.clips), initial=done, unit="video", desc=args.name) as bar:
            due = time.monotonic() + _LIST_SECONDS
            for report in runners.run_processes(prefix, todo, args.workers, bar.update):
                reports[report.number] = report
                failures = sum(len(one.failures) for one in reports.values())
                too_many = args.max_failures is not None and failures > args.max_failures
                if too_many or time.monotonic() > due:
                    _check_failures(prefix, plan, reports, args.max_failures)
                    due = time.monotonic() + _LIST_SECONDS
    _check_failures(prefix, plan, reports, args.max_failures)
    jobs.keep_index(prefix, plan)
    return list(reports.values())


def _check_failures(prefix: str, plan: shards.Plan, reports: dict[int, shards.Report], limit: int | None) -> None:
    """Leaves failed.csv; UserError if more videos failed than are borne."""
    failures = [failure for number in sorted(reports) for failure in reports[number].failures]
    path = os.path.join(os.path.dirname(prefix), "failed.csv")
    jobs.write_failures(path, os.path.basename(prefix), failures)
    if limit is not None and len(failures) > limit:
        raise UserError(
            f"{len(failures)} of {len(plan.clips)} videos could not be read, more than --max-failures {limit}: see "
            f"{path}; mend them and run again with --retry-failed, or allow more (finished shards are kept)"
        )
    if len(failures) == len(plan.clips):
        raise UserError(f"none of the {len(plan.clips)} videos could be read: see {path}; first: {failures[0].reason}")


def _finish(prefix: str, reports: Sequence[shards.Report]) -> None:
    clips, frames = sum(report.records for report in reports), sum(report.frames for report in reports)
    size, failures = sum(report.size for report in reports), sum(len(report.failures) for report in reports)
    print(f"{prefix}: {clips:,} clips, {frames:,} frames, {size / 1e6:,.1f} MB in {len(reports)} shards")
    if failures:
        path = os.path.join(os.path.dirname(prefix), "failed.csv")
        print(f"{failures} of {clips + failures} videos could not be read: see {path}", file=sys.stderr)


def _absolute(folder: str) -> str:
    """For workers that start elsewhere."""
    return folder if "://" in folder else os.path.abspath(folder)


def _number(text: str, kind: type, low: float, high: float, wanted: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r}: wanted {wanted}")
    return value


def _count(text: str) -> int:
    return _number(text, int, 1, 99_999, "a whole number from 1")


def _size(text: str) -> int:
    return _number(text, int, 0, 2**31, "a whole number from 0")


def _rate(text: str) -> float:
    return _number(text, float, 0, 1000, "frames a second from 0 to 1000")


def _quality(text: str) -> int:
    return _number(text, int, 1, 100, "a whole number from 1 to 100")


if __name__ == "__main__":
    exit_with_message(main)
