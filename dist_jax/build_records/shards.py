"""From clips to record shards: the plan of a job, and the building of one shard of it.

A plan says everything that decides the bytes of the shards, so that any worker, wherever it runs, builds shard i from
the plan and the number i alone. Files of a job `OUTPUT/NAME`:

    OUTPUT/NAME-00003-of-00016      a shard, there only when whole
    OUTPUT/.NAME.build/plan.jsonl    the plan
    OUTPUT/.NAME.build/00003.json   what is in the shard, and which of its videos failed; written after the shard

A shard is finished when its report is there and has the shard's size; a job that starts again builds the others.
"""

import dataclasses
import functools
import hashlib
import io
import json
import os
import uuid
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from dist_jax.data import records
from dist_jax.errors import UserError
from dist_jax.files import read_text, size_and_mtime, write_text
from dist_jax.video import decoding
from dist_jax.video.video_list import VideoSegment

_LARGEST_RECORD = 2**31 - 2**20  # bytes of JPEG; protocol buffers end at 2 GiB


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a job builds; from the same videos, plans of one identity give equal bytes."""

    clips: tuple[VideoSegment, ...]  # in the order of `spread`, with the files that were found for them
    labels: tuple[str, ...]  # class names in the order of their numbers; empty: the clips have a verb and a noun only
    shards: int
    fps: float  # frames a second; 0: the video's own
    short_side: int  # pixels, the largest; 0: the video's own
    quality: int  # of the JPEGs, 1 to 100

    @property
    def identity(self) -> tuple:
        """What a job that goes on must have in common with the one that was begun; a file may have come meanwhile."""
        clips = tuple(clip.identity for clip in self.clips)
        return clips, self.labels, self.shards, self.fps, self.short_side, self.quality

    def of_shard(self, number: int) -> tuple[VideoSegment, ...]:
        """The clips of shard `number`, in the order of its records."""
        return self.clips[number :: self.shards]


@dataclasses.dataclass(frozen=True)
class Failure:
    """A clip that could not be read, and why."""

    path: str
    label: str | None
    start_s: float | None
    end_s: float | None
    reason: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of one shard."""

    number: int
    records: int
    frames: int
    size: int  # bytes of the shard
    failures: tuple[Failure, ...]


def spread(clips: Sequence[VideoSegment]) -> tuple[VideoSegment, ...]:
    """The clips by a hash of their identity: the same for every order of the list, and each shard a fair sample."""

    def key(clip: VideoSegment) -> bytes:
        return hashlib.blake2b(json.dumps(clip.identity).encode()).digest()

    return tuple(sorted(clips, key=key))


def build_shard(prefix: str, number: int, on_clip: Callable[[], None] = lambda: None) -> Report:
    """Builds shard `number` of the plan at `prefix`, whole or not at all, and leaves its report.

    Args:
        prefix: OUTPUT/NAME.
        number: from 0.
        on_clip: called after every clip.

    Raises:
        UserError: the shard cannot be written. A video that cannot be read is in the report and raises nothing.
    """
    plan, videos = _loaded_plan(prefix, size_and_mtime(plan_path(prefix)))
    partial = os.path.join(folder(prefix), f"{number:05d}.{uuid.uuid4().hex}.partial")
    count, frames, failures = 0, 0, []
    try:
        with tf.io.TFRecordWriter(partial) as writer:
            for clip in plan.of_shard(number):
                record = _record_or_failure(plan, videos, clip)
                if isinstance(record, Failure):
                    failures.append(record)
                else:
                    writer.write(record[0])
                    count, frames = count + 1, frames + record[1]
                on_clip()
        report = Report(number, count, frames, tf.io.gfile.stat(partial).length, tuple(failures))
        tf.io.gfile.rename(partial, records.shard_path(prefix, number, plan.shards), overwrite=True)
        write_text(report_path(prefix, number), json.dumps(dataclasses.asdict(report), indent=1) + "\n")
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"{prefix}: shard {number} cannot be written ({getattr(error, 'message', error)})") from error
    return report


def make_record(clip: VideoSegment, plan: Plan, videos: str) -> tuple[bytes, int]:
    """The record of one clip and its number of frames; VideoError if the video cannot be read."""
    path = os.path.join(videos, clip.path)
    images, time, size = [], 0.0, 0
    for moment, frame in decoding.iter_frames(path, clip.start_s, clip.end_s, plan.fps, plan.short_side):
        time = moment
        images.append(encode_jpeg(frame, plan.quality))
        size += len(images[-1])
        if size > _LARGEST_RECORD:
            raise decoding.VideoError(f"{path}: is too long for one record (2 GiB); give start and end, or use --fps")
    start_s = clip.start_s or 0.0
    step = 1 / plan.fps if plan.fps else (time - start_s) / max(len(images) - 1, 1)
    end_s = time + step if clip.end_s is None else min(clip.end_s, time + step)
    record = records.make_example(
        images,
        label=None if clip.label is None else plan.labels.index(clip.label),
        label_text=clip.label,
        filename=clip.path,
        start_us=round(start_s * 1e6),
        end_us=round(end_s * 1e6),
        caption=clip.caption,
        verb=clip.verb,
        noun=clip.noun,
    )
    return record, len(images)


def encode_jpeg(frame: np.ndarray, quality: int) -> bytes:
    """uint8 [H, W, 3] RGB to JPEG of quality 1 to 100, colour at half resolution.

    Pillow (libjpeg-turbo) took 0.7 ms for 340 x 256 where FFmpeg's encoder took 1.5 ms, needs no TensorFlow runtime in
    the workers, and gives the same bytes on every call.
    """
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def _record_or_failure(plan: Plan, videos: str, clip: VideoSegment) -> tuple[bytes, int] | Failure:
    try:
        return make_record(clip, plan, videos)
    except decoding.VideoError as error:
        reason = str(error)
    except Exception as error:  # whatever one video does to a decoder, the others are built
        reason = f"{type(error).__name__}: {error}"
    return Failure(clip.path, clip.label, clip.start_s, clip.end_s, reason)


@functools.lru_cache(maxsize=1)
def _loaded_plan(prefix: str, state: tuple[int, int]) -> tuple[Plan, str]:
    """The plan, read once by a process that builds many of its shards; `state`, its file's, tells it from an older."""
    del state
    return load_plan(prefix)


def load_plan(prefix: str) -> tuple[Plan, str]:
    """The plan of the job at `prefix`, and the folder of its videos."""
    try:
        head, *clips = (json.loads(line) for line in read_text(plan_path(prefix)).splitlines())
        videos, labels = head.pop("videos"), tuple(head.pop("labels"))
        return Plan(tuple(VideoSegment(*clip) for clip in clips), labels, **head), videos
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{plan_path(prefix)}: is damaged ({error}); build again with --overwrite") from error


def folder(prefix: str) -> str:
    """Of the plan and the reports of the job at `prefix`."""
    # Hidden, so that globs such as NAME* find shards alone.
    return os.path.join(os.path.dirname(prefix), f".{os.path.basename(prefix)}.build")


def plan_path(prefix: str) -> str:
    """Of the job's plan: a line of settings, then one clip a line."""
    return os.path.join(folder(prefix), "plan.jsonl")


def report_path(prefix: str, number: int) -> str:
    """Of what became of a shard."""
    return os.path.join(folder(prefix), f"{number:05d}.json")
