"""Output folder of a build job: prepares new and resumed jobs, writes index, class names, failures, skipped files."""

import contextlib
import csv
import fcntl
import io
import os
import re
from collections.abc import Iterator, Sequence
from typing import IO

from dist_jax import class_names
from dist_jax.build_records import shards
from dist_jax.build_records.build_plan import BuildPlan, job_folder, load_plan, plan_path, save_plan
from dist_jax.data import record_index, records
from dist_jax.errors import UserError, one_line, warn
from dist_jax.files import exists, is_remote, join, list_names, make_folder, read_text, remove, write_text
from dist_jax.video import opening, video_list
from dist_jax.video.class_folders import SkippedFile

_FAILURE_COLUMNS = ("name", "path", "label", "start", "end", "reason")
_SKIPPED_COLUMNS = ("name", "path", "reason")
_LOCK = "lock"  # file in the folder of a job


def check(prefix: str, plan: BuildPlan, overwrite: bool) -> None:
    """Checks that the output folder fits a new or resumed job. Creates the folder if it does not exist.

    Args:
        prefix: OUTPUT/NAME.
        plan: the job.
        overwrite: delete the files of an existing job of this name.

    Raises:
        UserError: the folder cannot be created, or it contains shards of another job or existing records with other
            class names.
    """
    existing = None
    if not overwrite and exists(plan_path(prefix)):
        existing, _ = load_plan(prefix)
    elif not overwrite and records.shards_of(prefix):
        raise UserError(f"{prefix}: shards of unknown origin exist. Use another --name, or add --overwrite")
    if existing is not None and existing.identity != plan.identity:
        raise UserError(
            f"{prefix} belongs to a different job ({_differences(existing, plan)}). Use another --output or --name, "
            "restore these settings, or add --overwrite"
        )
    make_folder(os.path.dirname(prefix) or ".")
    _check_class_names(_labels_file(prefix), plan.class_names, overwrite, _other_jobs(prefix))


@contextlib.contextmanager
def lock(prefix: str) -> Iterator[None]:
    """Keeps other builds of the job `prefix` out while the block runs. Remote folders are not locked.

    The operating system releases the lock of a killed process. Some network file systems have no locks.

    Raises:
        UserError: another process builds this job, or its folder cannot be written.
    """
    make_folder(job_folder(prefix))
    if is_remote(prefix):
        yield
        return
    path = os.path.join(job_folder(prefix), _LOCK)
    with _open_lock(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{prefix}: another process builds these records; wait for its end, or use another --output or --name"
            ) from error
        except OSError as error:
            warn(f"{path}: cannot be locked ({error.strerror}); do not start a second build of these records")
        yield


def prepare(prefix: str, plan: BuildPlan, video_folder: str, overwrite: bool) -> None:
    """Prepares the output folder for a new or resumed job that `check` accepts. The caller holds the `lock`.

    Args:
        prefix: OUTPUT/NAME.
        plan: the job.
        video_folder: absolute path of the videos, for the workers.
        overwrite: delete the files of an existing job of this name.

    Raises:
        UserError: a file cannot be written or deleted.
    """
    _delete_partial_files(prefix)  # first: they can fill the disk
    if overwrite:
        _delete_job(prefix)
    if plan.class_names:
        write_text(_labels_file(prefix), class_names.to_text(plan.class_names))
    save_plan(prefix, plan, video_folder)


def finished_shards(prefix: str, plan: BuildPlan) -> dict[int, shards.ShardReport]:
    """Reports of the finished shards by shard number."""
    reports = (shards.load_report(prefix, shard, plan.num_shards) for shard in range(plan.num_shards))
    return {report.shard: report for report in reports if report is not None}


def remove_index(prefix: str) -> None:
    """Deletes the index of the job's shards if it exists. Raises UserError if it cannot be deleted."""
    remove(prefix + records.INDEX_SUFFIX)


def ensure_index(prefix: str, plan: BuildPlan) -> None:
    """Writes the index of the job's shards if it does not exist."""
    if not exists(prefix + records.INDEX_SUFFIX):
        record_index.write_index(prefix, plan.num_shards)


def write_failures(path: str, name: str, failures: Sequence[shards.Failure]) -> None:
    """Replaces the rows of job `name` in failed.csv and keeps the rows of other jobs."""
    rows = [(f.path, "|".join(f.labels), f.start_s, f.end_s, one_line(f.reason)) for f in failures]
    _replace_rows(path, name, _FAILURE_COLUMNS, rows)


def write_skipped(path: str, name: str, skipped: Sequence[SkippedFile]) -> None:
    """Replaces the rows of job `name` in skipped.csv and keeps the rows of other jobs."""
    _replace_rows(path, name, _SKIPPED_COLUMNS, [(one_line(file.path), file.reason) for file in skipped])


def check_videos(segments: Sequence[video_list.VideoSegment], video_folder: str) -> None:
    """Raises UserError if none of the videos exists: the folder is wrong. Some missing videos are not an error."""
    paths = [join(video_folder, segment.path) for segment in segments]
    # FFmpeg reads URLs; `files.exists` does not support them.
    if not any(path.startswith(opening.HTTP) or exists(path) for path in paths):
        raise UserError(f"0 of {len(paths)} videos exist, first missing {paths[0]}; check --videos")


def format_count(number: int, noun: str) -> str:
    """For example "1 video" or "1,234 videos"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _replace_rows(path: str, name: str, columns: Sequence[str], values: Sequence[tuple]) -> None:
    """Replaces the rows of job `name` in a CSV file. `values` are the columns after the first one, the name."""
    rows: list[tuple] = []
    if exists(path):
        rows = [
            tuple(row[column] for column in columns) for _, row in video_list.csv_rows(path, read_text(path), columns)
        ]
    if not rows and not values:
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([*(row for row in rows if row[0] != name), *((name, *row) for row in values)])
    write_text(path, text.getvalue())


def _check_class_names(path: str, names: Sequence[str], overwrite: bool, other_jobs: Sequence[str]) -> None:
    """Raises UserError if the file `path` has other class names and existing records use them."""
    if not names or (overwrite and not other_jobs) or not exists(path):
        return
    if video_list.read_class_names(path) != [*names]:
        users = f" and are used by {' and '.join(other_jobs)}" if other_jobs else ""
        raise UserError(
            f"{path}: the existing class names differ from the {format_count(len(names), 'class name')} of this "
            f"job{users}. Add --labels {path}, or use another --output"
        )


def _open_lock(path: str) -> IO[str]:
    try:
        return open(path, "a")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _labels_file(prefix: str) -> str:
    return os.path.join(os.path.dirname(prefix), "labels.txt")


def _other_jobs(prefix: str) -> list[str]:
    """Names of the other jobs, finished or not, in the folder of `prefix`."""
    names = set()
    for entry in list_names(os.path.dirname(prefix) or "."):
        shard, job = records.SHARD_NAME.fullmatch(entry), re.fullmatch(r"\.(.+)\.build", entry)
        names |= {match[1] for match in (shard, job) if match}
    return sorted(names - {os.path.basename(prefix)})


def _differences(old: BuildPlan, new: BuildPlan) -> str:
    options = {
        "num_shards": "--shards",
        "fps": "--fps",
        "short_side": "--short-side",
        "quality": "--quality",
        "square_pixels": "--square-pixels",
    }
    parts = [
        f"{option} {getattr(old, name)}, now {getattr(new, name)}"
        for name, option in options.items()
        if getattr(old, name) != getattr(new, name)
    ]
    parts += ["other class names"] if old.class_names != new.class_names else []
    if [segment.identity for segment in old.segments] != [segment.identity for segment in new.segments]:
        parts.append(f"another list ({format_count(len(old.segments), 'video')}, now {len(new.segments)})")
    return "; ".join(parts)


def _delete_job(prefix: str) -> None:
    """Deletes the shards, plan, reports and index of a job."""
    remove_index(prefix)
    for path in records.shards_of(prefix):
        remove(path)
    for name in list_names(job_folder(prefix)):
        if name != _LOCK:
            remove(os.path.join(job_folder(prefix), name))


def _delete_partial_files(prefix: str) -> None:
    """Deletes the partial files of a killed job."""
    for name in list_names(job_folder(prefix)):
        if name.endswith(".partial"):
            remove(os.path.join(job_folder(prefix), name))
