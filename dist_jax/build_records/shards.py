"""Builds one shard of a job: decodes its videos, writes their records and a report.

A shard is finished if its report exists and contains the size of the shard. A resumed job builds the other shards.
"""

import contextlib
import dataclasses
import functools
import io
import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from dist_jax.build_records.build_plan import BuildPlan, job_folder, load_plan, plan_path
from dist_jax.data import records
from dist_jax.errors import UserError
from dist_jax.files import exists, is_remote, join, read_bytes, remove, size_and_mtime, write_text
from dist_jax.video import decoding
from dist_jax.video.video_list import VideoSegment

_MAX_RECORD_BYTES = 2**31 - 2**20  # of the JPEGs; a protocol buffer is limited to 2 GiB


@dataclasses.dataclass(frozen=True)
class Failure:
    """An unreadable segment and the reason."""

    path: str
    label: str | None
    start_s: float | None
    end_s: float | None
    reason: str
    other_labels: Sequence[str] = ()  # in addition to `label`

    @property
    def labels(self) -> tuple[str, ...]:
        """All class names of the segment."""
        return () if self.label is None else (self.label, *self.other_labels)


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """Contents of a finished shard."""

    shard: int  # number of the shard, from 0
    num_records: int
    num_frames: int
    size: int  # bytes
    failures: tuple[Failure, ...]


def build_shard(
    prefix: str,
    shard: int,
    on_segment: Callable[[], None] = lambda: None,
    on_start: Callable[[int], None] = lambda position: None,
) -> ShardReport:
    """Builds a shard of the job atomically and writes its report. Unreadable videos are listed in the report.

    Args:
        prefix: OUTPUT/NAME.
        shard: number of the shard, from 0.
        on_segment: called after every segment.
        on_start: called before every segment with its position in the plan.

    Raises:
        UserError: the shard cannot be written.
    """
    plan, video_folder = _load_plan_cached(prefix, size_and_mtime(plan_path(prefix)))
    num_records, num_frames, failures = 0, 0, []
    try:
        with _partial_file(prefix, shard) as partial:
            with tf.io.TFRecordWriter(partial) as writer:
                for number, segment in enumerate(plan.shard_segments(shard)):
                    on_start(shard + number * plan.num_shards)
                    record = _make_record_or_failure(segment, plan, video_folder)
                    if isinstance(record, Failure):
                        failures.append(record)
                    else:
                        writer.write(record[0])
                        num_records, num_frames = num_records + 1, num_frames + record[1]
                    on_segment()
            _flush_to_disk(partial)
            report = ShardReport(shard, num_records, num_frames, tf.io.gfile.stat(partial).length, tuple(failures))
            tf.io.gfile.rename(partial, records.shard_path(prefix, shard, plan.num_shards), overwrite=True)
        _save_report(prefix, report)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"{prefix}: shard {shard} cannot be written ({getattr(error, 'message', error)})") from error
    return report


def load_report(prefix: str, shard: int, num_shards: int) -> ShardReport | None:
    """The report of a shard; None if the shard is not finished. Raises UserError if a file cannot be read.

    A shard with a damaged report (a power failure, a full disk) is not finished.
    """
    path, shard_file = _report_path(prefix, shard), records.shard_path(prefix, shard, num_shards)
    if not exists(path) or not exists(shard_file):
        return None
    try:
        stored = json.loads(read_bytes(path))
        failures = tuple(Failure(**failure) for failure in stored["failures"])
        report = ShardReport(stored["number"], stored["records"], stored["frames"], stored["size"], failures)
    except (ValueError, KeyError, TypeError):
        return None
    return report if report.size == size_and_mtime(shard_file)[0] else None


def make_record(segment: VideoSegment, plan: BuildPlan, video_folder: str) -> tuple[bytes, int]:
    """Returns the record of a segment and its number of frames. Raises VideoError if the video cannot be read."""
    path = join(video_folder, segment.path)
    images, end_s, size = [], 0.0, 0
    for frame in decoding.iter_segment(
        path, segment.start_s, segment.end_s, plan.fps, plan.short_side, plan.square_pixels
    ):
        end_s = frame.time + frame.duration
        images.append(encode_jpeg(frame.pixels, plan.quality))
        size += len(images[-1])
        if size > _MAX_RECORD_BYTES:
            raise decoding.VideoError(f"{path}: is too long for one record (2 GiB); set start and end, or use --fps")
    start_s = segment.start_s or 0.0
    end_s = end_s if segment.end_s is None else min(segment.end_s, end_s)
    record = records.make_example(
        images,
        label=[plan.class_names.index(label) for label in segment.labels],
        label_text=segment.labels,
        filename=segment.path,
        start_us=round(start_s * 1e6),
        end_us=round(end_s * 1e6),
        caption=segment.caption,
        verb=segment.verb,
        noun=segment.noun,
        narration_id=segment.narration_id,
    )
    return record, len(images)


def encode_jpeg(frame: np.ndarray, quality: int) -> bytes:
    """Encodes an RGB frame, uint8 [H, W, 3], as JPEG with quality 1 to 100 and 4:2:0 chroma subsampling."""
    # Pillow (libjpeg-turbo) is faster than FFmpeg, and its output is deterministic. Optimised Huffman tables make the
    # image 2 % smaller, and decoding it 3 % faster.
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling="4:2:0", optimize=True)
    return buffer.getvalue()


def _make_record_or_failure(segment: VideoSegment, plan: BuildPlan, video_folder: str) -> tuple[bytes, int] | Failure:
    try:
        return make_record(segment, plan, video_folder)
    except decoding.VideoError as error:
        reason = str(error)
    except Exception as error:  # decoders raise many types of errors; one video must not stop the job
        reason = f"{type(error).__name__}: {error}"
    return Failure(segment.path, segment.label, segment.start_s, segment.end_s, reason, segment.other_labels)


@contextlib.contextmanager
def _partial_file(prefix: str, shard: int) -> Iterator[str]:
    """A new path for an unfinished shard. The file is deleted if the block fails, as it can fill the disk."""
    path = os.path.join(job_folder(prefix), f"{shard:05d}.{uuid.uuid4().hex}.partial")
    try:
        yield path
    except BaseException:
        with contextlib.suppress(UserError):
            remove(path)
        raise


def _flush_to_disk(path: str) -> None:
    """Waits until a local file is on the disk. The report of a shard must not be there before the shard."""
    if not is_remote(path):
        with open(path, "rb") as file:
            os.fsync(file.fileno())


@functools.lru_cache(maxsize=1)
def _load_plan_cached(prefix: str, file_state: tuple[int, int]) -> tuple[BuildPlan, str]:
    del file_state  # part of the cache key only
    return load_plan(prefix)


def _save_report(prefix: str, report: ShardReport) -> None:
    values = {
        "number": report.shard,
        "records": report.num_records,
        "frames": report.num_frames,
        "size": report.size,
        "failures": [dataclasses.asdict(failure) for failure in report.failures],
    }
    write_text(_report_path(prefix, report.shard), json.dumps(values, indent=1) + "\n")


def _report_path(prefix: str, shard: int) -> str:
    return os.path.join(job_folder(prefix), f"{shard:05d}.json")
