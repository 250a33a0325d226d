"""The plan of a build job: all settings that determine the bytes of the shards, and its file.

Any worker builds shard i from the plan and the number i alone. Files of a job `OUTPUT/NAME`:

    OUTPUT/NAME-00003-of-00016      a complete shard
    OUTPUT/.NAME.build/plan.jsonl   the plan: one line with the settings, then one line per segment
    OUTPUT/.NAME.build/00003.json   report of the shard, written after the shard
    OUTPUT/.NAME.build/lock         an empty file that a running build locks
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence

from dist_jax.errors import UserError
from dist_jax.files import make_folder, read_text, write_text
from dist_jax.video.video_list import VideoSegment


@dataclasses.dataclass(frozen=True)
class BuildPlan:
    """Contents of a job. Plans with equal identity give equal bytes for equal videos."""

    segments: tuple[VideoSegment, ...]  # in the order of `shuffle_by_hash`, with the paths of the files
    class_names: tuple[str, ...]  # by class number; empty: the segments have only verb and noun, or no labels
    num_shards: int
    fps: float  # frames per second; 0: all frames
    short_side: int  # maximum, in pixels; 0: no limit
    quality: int  # of the JPEGs, 1 to 100
    square_pixels: bool = True  # scale the width of frames with non-square pixels

    @property
    def identity(self) -> tuple:
        """Values that must be equal to resume a job. Independent of which video files exist."""
        segments = tuple(segment.identity for segment in self.segments)
        settings = self.num_shards, self.fps, self.short_side, self.quality, self.square_pixels
        return segments, self.class_names, *settings

    def shard_segments(self, shard: int) -> tuple[VideoSegment, ...]:
        """The segments of a shard in the order of its records."""
        return self.segments[shard :: self.num_shards]


def shuffle_by_hash(segments: Sequence[VideoSegment]) -> tuple[VideoSegment, ...]:
    """Sorts segments by a hash of their identity. The result is independent of the input order."""

    def key(segment: VideoSegment) -> bytes:
        return hashlib.blake2b(json.dumps(segment.identity).encode()).digest()

    return tuple(sorted(segments, key=key))


def save_plan(prefix: str, plan: BuildPlan, video_folder: str) -> None:
    """Writes the plan and the folder of the videos. Raises UserError if the file cannot be written."""
    make_folder(job_folder(prefix))
    settings = {
        "videos": video_folder,
        "labels": plan.class_names,
        "shards": plan.num_shards,
        "fps": plan.fps,
        "short_side": plan.short_side,
        "quality": plan.quality,
        "square_pixels": plan.square_pixels,
    }
    lines = [json.dumps(settings), *(json.dumps(dataclasses.astuple(segment)) for segment in plan.segments)]
    write_text(plan_path(prefix), "\n".join(lines) + "\n")


def load_plan(prefix: str) -> tuple[BuildPlan, str]:
    """Returns the plan of the job and the folder of its videos. Raises UserError if the file is damaged."""
    try:
        settings, *segments = (json.loads(line) for line in read_text(plan_path(prefix)).splitlines())
        plan = BuildPlan(
            segments=tuple(map(_load_segment, segments)),
            class_names=tuple(settings["labels"]),
            num_shards=settings["shards"],
            fps=settings["fps"],
            short_side=settings["short_side"],
            quality=settings["quality"],
            square_pixels=settings.get("square_pixels", False),  # dist_jax 0.2 kept the stored pixels
        )
        return plan, settings["videos"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{plan_path(prefix)}: is damaged ({error}); build again with --overwrite") from error


def _load_segment(values: list) -> VideoSegment:
    """A segment from its line, which may have fewer values: those of an older dist_jax."""
    segment = VideoSegment(*values)
    return dataclasses.replace(segment, other_labels=tuple(segment.other_labels))  # JSON has lists


def job_folder(prefix: str) -> str:
    """Folder of the plan and the reports of the job `prefix`."""
    # Hidden, so that globs such as NAME* match only shards.
    return os.path.join(os.path.dirname(prefix), f".{os.path.basename(prefix)}.build")


def plan_path(prefix: str) -> str:
    """Path of the plan of the job `prefix`."""
    return os.path.join(job_folder(prefix), "plan.jsonl")
