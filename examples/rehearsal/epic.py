"""A stand-in of EPIC-KITCHENS-100: motions are verbs, colours with a shape are nouns.

The class files have 97 verbs and 300 nouns, as the published ones; only the first ones occur. The segments of a video
follow each other without gaps. P02 is a participant without training videos.
"""

import csv
import dataclasses
import io
import itertools
from collections.abc import Sequence

import numpy as np

from examples.demo import scenes
from examples.rehearsal.clips import SECONDS, Clip, Part

VIDEOS = {  # split -> videos; those with three digits are of the extension, whose frame numbers count 50 per second
    "train": ("P01_01", "P01_101"),
    "val": ("P01_02", "P02_101"),
    "test": ("P03_01",),
}
FILES = {
    "train": "EPIC_100_train.csv",
    "val": "EPIC_100_validation.csv",
    "test": "EPIC_100_test_timestamps.csv",
}
VERBS = tuple(scenes.MOTIONS)
NOUNS = tuple(itertools.product(scenes.COLOURS, scenes.SHAPES))
NUM_VERBS, NUM_NOUNS = 97, 300
TAIL_VERBS, TAIL_NOUNS = (6, 7), tuple(range(20, 40))
UNSEEN = "P02"


@dataclasses.dataclass(frozen=True)
class Segment:
    """A row of the annotations."""

    split: str
    video: str
    number: int  # in its video, from 0
    verb: int
    noun: int

    @property
    def row(self) -> dict[str, str | int]:
        """Its values, by column."""
        start, stop = self.number * SECONDS, (self.number + 1) * SECONDS
        fps = 60 if len(self.video.partition("_")[2]) == 2 else 50
        noun = " ".join(NOUNS[self.noun])
        return {
            "narration_id": f"{self.video}_{self.number}",
            "participant_id": self.video.partition("_")[0],
            "video_id": self.video,
            "narration_timestamp": _timestamp(start),
            "start_timestamp": _timestamp(start),
            "stop_timestamp": _timestamp(stop),
            "start_frame": start * fps,
            "stop_frame": stop * fps,
            "narration": f"{noun} {VERBS[self.verb]}",
            "verb": VERBS[self.verb],
            "verb_class": self.verb,
            "noun": noun,
            "noun_class": self.noun,
            "all_nouns": f"['{noun}']",
            "all_noun_classes": f"[{self.noun}]",
        }


def make_segments(per_video: int, seed: int) -> list[Segment]:
    """`per_video` segments of each video with random verbs and nouns."""
    rng = np.random.default_rng([seed, 3])
    return [
        Segment(split, video, number, int(rng.integers(len(VERBS))), int(rng.integers(len(NOUNS))))
        for split, videos in VIDEOS.items()
        for video in videos
        for number in range(per_video)
    ]


def annotation_files(segments: Sequence[Segment]) -> dict[str, str]:
    """The published files: name -> CSV text. The rows of the test split have no narration and no labels."""
    texts = {}
    for split, name in FILES.items():
        rows = [segment.row for segment in segments if segment.split == split]
        texts[name] = _csv([dict(itertools.islice(row.items(), 8)) for row in rows] if split == "test" else rows)
    verbs = [*VERBS, *(f"unused-verb-{number}" for number in range(len(VERBS), NUM_VERBS))]
    nouns = [*map(" ".join, NOUNS), *(f"unused-noun-{number}" for number in range(len(NOUNS), NUM_NOUNS))]
    return texts | {
        "EPIC_100_verb_classes.csv": _class_file(verbs),
        "EPIC_100_noun_classes.csv": _class_file(nouns),
        "EPIC_100_unseen_participant_ids_validation.csv": _csv([{"participant_id": UNSEEN}]),
        "EPIC_100_tail_verbs.csv": _csv([{"verb": number} for number in TAIL_VERBS]),
        "EPIC_100_tail_nouns.csv": _csv([{"noun": number} for number in TAIL_NOUNS]),
    }


def clips(segments: Sequence[Segment]) -> list[Clip]:
    """The files PARTICIPANT/videos/VIDEO.MP4."""
    return [
        Clip(f"{video.partition('_')[0]}/videos/{video}.MP4", tuple(map(_part, of_video)))
        for video, of_video in itertools.groupby(segments, lambda segment: segment.video)
    ]


def _part(segment: Segment) -> Part:
    return Part(VERBS[segment.verb], NOUNS[segment.noun])


def _timestamp(seconds: int) -> str:
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.000"


def _class_file(names: Sequence[str]) -> str:
    return _csv([{"id": n, "key": name, "instances": f"['{name}']", "category": "all"} for n, name in enumerate(names)])


def _csv(rows: Sequence[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
