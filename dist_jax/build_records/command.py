r"""Converts videos to DMVR TFRecords: `python -m dist_jax.build_records`.

Your own videos, with a list (lines `path label`, or a CSV file with the header path,label[,start,end][,caption]).
The column labels, instead of label, has several labels, `wave|jump`, or none:

    python -m dist_jax.build_records --videos clips --list train.txt --output records --name train
    python -m dist_jax.build_records --videos clips --list val.txt --output records --name val \
        --labels records/labels.txt

Without --list, --videos has one subfolder per class. Public data sets are read in their published format:

    python -m dist_jax.build_records --dataset ssv2 --annotations labels --videos 20bn-something-something-v2 \
        --split train --output records/ssv2

See dist_jax/build_records/datasets.py for the formats. kinetics710 merges Kinetics-400, -600 and -700.

The output folder contains the shards NAME-00000-of-00016 and so on, labels.txt (class names by class number),
NAME.index.npz (offset of each record), failed.csv (unreadable videos with the reason) and, without --list, skipped.csv
(files that are not videos of a class). A hash assigns videos to shards. The bytes of a shard depend only on the videos,
the list and the settings. To resume an interrupted job, run the same command again: it keeps the finished shards.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tqdm import tqdm

from dist_jax import files
from dist_jax.build_records import arguments, datasets, jobs, runners
from dist_jax.build_records.build_plan import BuildPlan, shuffle_by_hash
from dist_jax.build_records.shards import ShardReport
from dist_jax.errors import UserError, warn
from dist_jax.video import class_folders, video_list

_FAILURE_LIST_INTERVAL_S = 5.0  # seconds, minimum time between two updates of failed.csv


def main(argv: Sequence[str] | None = None) -> int:
    """Builds the records and returns the exit status. Raises UserError for invalid inputs."""
    args, runner_options = arguments.parse(argv, __doc__)
    annotations = _read_annotations(args)
    video_folder = _absolute(args.videos or os.path.dirname(args.list))
    jobs.check_videos(annotations.segments, video_folder)
    plan = BuildPlan(
        segments=shuffle_by_hash(annotations.segments),
        class_names=tuple(annotations.class_names),
        num_shards=args.shards or -(-len(annotations.segments) // arguments.SEGMENTS_PER_SHARD),
        fps=args.fps,
        short_side=args.short_side,
        quality=args.quality,
        square_pixels=args.square_pixels,
    )
    prefix = os.path.join(_absolute(args.output), args.name)
    jobs.check(prefix, plan, args.overwrite)
    with jobs.lock(prefix):
        jobs.prepare(prefix, plan, video_folder, args.overwrite)
        for name, text in annotations.extra_files.items():
            files.write_text(os.path.join(args.output, name), text)
        jobs.write_skipped(_skipped_path(prefix), args.name, annotations.skipped or [])
        reports = _build(prefix, plan, args, runner_options)
    _print_summary(prefix, reports)
    _warn_of_lost_classes(plan, reports)
    if annotations.skipped is not None:
        _print_file_counts(prefix, reports, annotations.skipped)
    return 0


def _read_annotations(args: argparse.Namespace) -> datasets.Annotations:
    names = video_list.read_class_names(args.labels) if args.labels else None
    if args.dataset:
        annotations = datasets.read(args.dataset, args.annotations, args.videos, args.split, args.trimmed, names)
        if annotations.summary:
            print(annotations.summary)
        return annotations
    if args.list:
        segments, skipped = video_list.read_list(args.list, names), None
    else:
        segments, skipped = class_folders.read_folders(args.videos)
    names = names or sorted({label for segment in segments for label in segment.labels})
    video_list.check_labels(segments, names)
    return datasets.Annotations(segments, names, skipped=skipped)


def _build(prefix: str, plan: BuildPlan, args: argparse.Namespace, runner_options: Sequence[str]) -> list[ShardReport]:
    """Builds the unfinished shards and the index. Returns the reports of all shards."""
    reports = jobs.finished_shards(prefix, plan)
    if args.retry_failed:
        reports = {shard: report for shard, report in reports.items() if not report.failures}
    unfinished = [shard for shard in range(plan.num_shards) if shard not in reports]
    if reports:
        print(f"{prefix}: keeping finished shards: {len(reports)} of {plan.num_shards}")
    if unfinished:
        jobs.remove_index(prefix)
    if args.runner and unfinished:
        runners.run_beam(prefix, unfinished, args.runner, runner_options)
        reports = jobs.finished_shards(prefix, plan)
    elif unfinished:
        _run_processes(prefix, plan, args, unfinished, reports)
    _check_failures(prefix, plan, reports, args.max_failures)
    jobs.ensure_index(prefix, plan)
    return list(reports.values())


def _run_processes(
    prefix: str, plan: BuildPlan, args: argparse.Namespace, unfinished: list[int], reports: dict[int, ShardReport]
) -> None:
    """Builds shards in worker processes and adds their reports to `reports`."""
    num_done = sum(len(plan.shard_segments(shard)) for shard in reports)
    with tqdm(total=len(plan.segments), initial=num_done, unit="video", desc=args.name) as bar:
        next_check = time.monotonic() + _FAILURE_LIST_INTERVAL_S
        for report in runners.run_processes(prefix, unfinished, args.workers, bar.update):
            reports[report.shard] = report
            num_failures = sum(len(report.failures) for report in reports.values())
            too_many = args.max_failures is not None and num_failures > args.max_failures
            if too_many or time.monotonic() > next_check:
                _check_failures(prefix, plan, reports, args.max_failures)
                next_check = time.monotonic() + _FAILURE_LIST_INTERVAL_S


def _check_failures(prefix: str, plan: BuildPlan, reports: dict[int, ShardReport], limit: int | None) -> None:
    """Writes failed.csv. Raises UserError if more than `limit` videos failed, or all."""
    failures = [failure for shard in sorted(reports) for failure in reports[shard].failures]
    path = _failures_path(prefix)
    jobs.write_failures(path, os.path.basename(prefix), failures)
    if limit is not None and len(failures) > limit:
        raise UserError(
            f"unreadable videos: {len(failures)} of {len(plan.segments)}, more than --max-failures {limit}; "
            f"see {path}. Repair them and run again with --retry-failed, or increase --max-failures (finished shards "
            "are kept)"
        )
    if len(failures) == len(plan.segments):
        raise UserError(f"0 of {len(failures)} videos can be read; see {path}. First: {failures[0].reason}")


def _print_summary(prefix: str, reports: Sequence[ShardReport]) -> None:
    num_records, num_frames = sum(r.num_records for r in reports), sum(r.num_frames for r in reports)
    size, num_failures = sum(r.size for r in reports), sum(len(r.failures) for r in reports)
    videos, frames = jobs.format_count(num_records, "video"), jobs.format_count(num_frames, "frame")
    print(f"{prefix}: {videos}, {frames}, {size / 1e6:,.1f} MB in {jobs.format_count(len(reports), 'shard')}")
    if num_failures:
        total = num_records + num_failures
        print(f"unreadable videos: {num_failures} of {total}; see {_failures_path(prefix)}", file=sys.stderr)


def _warn_of_lost_classes(plan: BuildPlan, reports: Sequence[ShardReport]) -> None:
    """Warns about classes without a readable video."""
    failed = Counter(label for report in reports for failure in report.failures for label in failure.labels)
    listed = Counter(label for segment in plan.segments for label in segment.labels)
    lost = [f"{name} ({failed[name]} failed)" for name in plan.class_names if 0 < listed[name] <= failed[name]]
    if lost:
        warn(f"classes without a readable video: {', '.join(lost)}")


def _print_file_counts(
    prefix: str, reports: Sequence[ShardReport], skipped: Sequence[class_folders.SkippedFile]
) -> None:
    """Prints one line that accounts for every file of the folder: one segment is one file."""
    num_read, num_failed = sum(r.num_records for r in reports), sum(len(r.failures) for r in reports)
    total = jobs.format_count(num_read + num_failed + len(skipped), "file")
    text = f"{total} found: {num_read:,} read, {num_failed:,} failed, {len(skipped):,} skipped"
    if skipped:
        text += f" (see {_skipped_path(prefix)}); skipped: {class_folders.count_reasons(skipped)}"
    print(text)


def _skipped_path(prefix: str) -> str:
    return os.path.join(os.path.dirname(prefix), "skipped.csv")


def _failures_path(prefix: str) -> str:
    return os.path.join(os.path.dirname(prefix), "failed.csv")


def _absolute(folder: str) -> str:
    # Workers may have another current folder.
    return folder if files.is_remote(folder) else files.user_path(os.path.abspath(folder))
