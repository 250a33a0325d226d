"""The files of a build job in its output folder: begun, resumed, refused, and its lists of names and failures."""

import csv
import dataclasses
import io
import json
import os
import re
from collections.abc import Sequence

import tensorflow as tf

from dist_jax.build_records import shards
from dist_jax.data import record_index, records
from dist_jax.errors import UserError
from dist_jax.files import make_folder, read_text, write_text
from dist_jax.video import video_list

_FAILED_COLUMNS = ("name", "path", "label", "start", "end", "reason")


def prepare(prefix: str, plan: shards.Plan, videos: str, overwrite: bool) -> None:
    """Makes room for the job: resumes one of the same plan, and refuses to touch another's files.

    Raises:
        UserError: files of another job or origin, class names that other sets in the folder are numbered by, or a
            folder that cannot be made.
    """
    known = None
    if not overwrite and tf.io.gfile.exists(shards.plan_path(prefix)):
        known, _ = shards.load_plan(prefix)
    elif not overwrite and records.shards_of(prefix):
        raise UserError(f"{prefix}: shards of another origin are there; choose another --name, or add --overwrite")
    if known is not None and known.identity != plan.identity:
        raise UserError(
            f"{prefix} was begun with {_difference(known, plan)}; choose another --output or --name, or add "
            "--overwrite to build it anew"
        )
    make_folder(os.path.dirname(prefix) or ".")
    names_file = os.path.join(os.path.dirname(prefix), "labels.txt")
    _check_names(names_file, plan.labels, overwrite, _other_sets(prefix))
    if overwrite:
        _discard(prefix)
    if plan.labels:
        write_text(names_file, "\n".join(plan.labels) + "\n")
    _save_plan(prefix, plan, videos)
    _sweep(prefix)


def finished(prefix: str, plan: shards.Plan) -> dict[int, shards.Report]:
    """Reports of the shards that are whole."""
    reports = {}
    for number in range(plan.shards):
        path, shard = shards.report_path(prefix, number), records.shard_path(prefix, number, plan.shards)
        if tf.io.gfile.exists(path) and tf.io.gfile.exists(shard):
            stored = json.loads(read_text(path))
            failures = tuple(shards.Failure(**failure) for failure in stored.pop("failures"))
            report = shards.Report(**stored, failures=failures)
            if report.size == tf.io.gfile.stat(shard).length:
                reports[number] = report
    return reports


def drop_index(prefix: str) -> None:
    """Removes the index of shards that are about to change."""
    if tf.io.gfile.exists(prefix + records.INDEX_SUFFIX):
        tf.io.gfile.remove(prefix + records.INDEX_SUFFIX)


def keep_index(prefix: str, plan: shards.Plan) -> None:
    """Leaves the index of the job's shards beside them, where it is not there already."""
    if not tf.io.gfile.exists(prefix + records.INDEX_SUFFIX):
        record_index.write_index(prefix, plan.shards)


def write_failures(path: str, name: str, failures: Sequence[shards.Failure]) -> None:
    """Replaces the lines of this set of shards; those of other names stay."""
    rows = []
    if tf.io.gfile.exists(path):
        rows = [row for _, row in video_list.csv_rows(path, read_text(path), _FAILED_COLUMNS)]
    kept = [row for row in rows if row["name"] != name]
    new = [
        dict(zip(_FAILED_COLUMNS, (name, f.path, f.label, f.start_s, f.end_s, f.reason), strict=True)) for f in failures
    ]
    if not kept and not new and not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, _FAILED_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*kept, *new])
    write_text(path, text.getvalue())


def check_videos(clips: Sequence[video_list.VideoSegment], videos: str) -> None:
    """Some videos of a large set are often missing; all of them means that the folder is wrong."""
    if not any(tf.io.gfile.exists(os.path.join(videos, clip.path)) for clip in clips):
        first = os.path.join(videos, clips[0].path)
        raise UserError(f"none of the {len(clips)} videos is there, the first being {first}; check --videos")


def _check_names(path: str, names: Sequence[str], overwrite: bool, others: Sequence[str]) -> None:
    """UserError if the class names at `path` are others, and the labels of other sets there count by them."""
    if names and (others or not overwrite) and tf.io.gfile.exists(path) and video_list.read_class_names(path) != [*names]:
        used = f", by which {' and '.join(others)} there count" if others else ""
        raise UserError(
            f"{path} holds other class names than these {len(names)}{used}; add --labels {path}, or another --output"
        )


def _other_sets(prefix: str) -> list[str]:
    """Names of the other sets of shards, finished or begun, in the folder of `prefix`."""
    names = set()
    for entry in tf.io.gfile.listdir(os.path.dirname(prefix) or "."):
        shard, job = records.SHARD_NAME.fullmatch(entry), re.fullmatch(r"\.(.+)\.build/?", entry)
        names |= {found[1] for found in (shard, job) if found}
    return sorted(names - {os.path.basename(prefix)})


def _difference(old: shards.Plan, new: shards.Plan) -> str:
    names = [name for name in ("shards", "fps", "short_side", "quality") if getattr(old, name) != getattr(new, name)]
    parts = [f"--{name.replace('_', '-')} {getattr(old, name)}, not {getattr(new, name)}" for name in names]
    parts += ["other class names"] if old.labels != new.labels else []
    if [clip.identity for clip in old.clips] != [clip.identity for clip in new.clips]:
        parts.append(f"another list ({len(old.clips)} clips, now {len(new.clips)})")
    return " and ".join(parts)


def _save_plan(prefix: str, plan: shards.Plan, videos: str) -> None:
    """Leaves the plan, and where the videos are, for the workers."""
    make_folder(shards.folder(prefix))
    # The clips stand one a line, so that a person can look at them.
    head = {name: getattr(plan, name) for name in ("labels", "shards", "fps", "short_side", "quality")}
    lines = [json.dumps({"videos": videos, **head}), *(json.dumps(dataclasses.astuple(clip)) for clip in plan.clips)]
    write_text(shards.plan_path(prefix), "\n".join(lines) + "\n")


def _discard(prefix: str) -> None:
    """Removes a job: its shards, plan, reports and index."""
    drop_index(prefix)
    for path in records.shards_of(prefix):
        tf.io.gfile.remove(path)
    if tf.io.gfile.isdir(shards.folder(prefix)):
        tf.io.gfile.rmtree(shards.folder(prefix))


def _sweep(prefix: str) -> None:
    """Removes what a killed job left half written."""
    for name in tf.io.gfile.listdir(shards.folder(prefix)):
        if name.endswith(".partial"):
            tf.io.gfile.remove(os.path.join(shards.folder(prefix), name))
