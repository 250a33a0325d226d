"""Kinetics 400, 600 and 700-2020 as published, and Kinetics-710, the three merged.

The published CSV files have the columns label, youtube_id, time_start and time_end (seconds of the YouTube video); test
lists may lack the label.

Kinetics-710 (UniFormerV2, arXiv 2211.09552) unites the classes of the three sets. Most have the same name up to case;
`RENAMED` holds those that a later set renamed. On the published lists 400 + 600 + 700 names give 710.
"""

import csv
import dataclasses
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import tensorflow as tf

from dist_jax.data.annotations import Clip, csv_rows, parse_seconds
from dist_jax.data.files import VideoFiles, read_text
from dist_jax.errors import UserError

SETS = ("kinetics400", "kinetics600", "kinetics700")
SPLITS = {"train": ("train",), "val": ("val", "validate", "validation"), "test": ("test",)}

# What the label map of Kinetics-710 calls classes that stand under other names in one of the sets.
RENAMED = {
    "balloon blowing": "inflating balloons",
    "changing wheel": "changing wheel (not on bike)",
    "cooking sausages": "cooking sausages (not on barbeque)",
    "drinking": "sipping cup",
    "dying hair": "dyeing hair",
    "garbage collecting": "person collecting garbage",
    "hugging": "hugging (not baby)",
    "making bed": "making the bed",
    "opening bottle": "opening bottle (not wine)",
    "picking fruit": "picking apples",
    "skiing (not slalom or crosscountry)": "skiing mono",
    "sniffing": "smelling feet",
    "throwing ball (not baseball or american football)": "throwing ball",
    "tying tie": "tying necktie",
}


@dataclasses.dataclass(frozen=True)
class Video:
    """A line of a published list."""

    youtube_id: str
    label: str  # empty in a test list without labels
    start_s: float
    end_s: float


@dataclasses.dataclass(frozen=True)
class Merged:
    """Kinetics-710 of one split."""

    videos: tuple[Video, ...]  # with the merged class names
    maps: dict[str, dict[str, str]]  # set -> its class name -> the merged one
    counts: dict[str, dict[str, int]]  # set -> videos: listed, held_out, duplicate, kept


def read_videos(path: str, labelled: bool = True) -> list[Video]:
    """The lines of a published list; UserError if it has other columns, or no label where one is needed."""
    columns = (
        ("label", "youtube_id", "time_start", "time_end") if labelled else ("youtube_id", "time_start", "time_end")
    )
    videos = []
    for line, row in csv_rows(path, read_text(path), columns):
        place = f"{path}, line {line}"
        start, end = parse_seconds(row["time_start"], place), parse_seconds(row["time_end"], place)
        if end <= start or not row["youtube_id"] or (labelled and not row["label"]):
            raise UserError(
                f"{place}: wanted label, youtube id and a start before the end; it is {','.join(row.values())}"
            )
        videos.append(Video(row["youtube_id"], row.get("label", "").strip(), start, end))
    if not videos:
        raise UserError(f"{path}: lists no videos")
    return videos


def list_path(folder: str, split: str) -> str:
    """The CSV file of a split in the folder of a published set: train.csv, kinetics_400_validate.csv...

    Raises:
        UserError: There is none, or more than one.
    """
    names = sorted(name for name in tf.io.gfile.listdir(folder) if name.endswith(".csv"))
    found = [name for name in names if re.split(r"[^a-z]+", name[:-4].lower())[-1] in SPLITS[split]]
    if len(found) != 1:
        wanted = " or ".join(f"{word}.csv" for word in SPLITS[split])
        raise UserError(f"{folder}: wanted one list {wanted}; it has {', '.join(found or names) or 'no CSV file'}")
    return os.path.join(folder, found[0])


def to_clips(videos: Iterable[Video], files: VideoFiles, trimmed: bool) -> list[Clip]:
    """Where each video's file is, and which part of it is the clip.

    Args:
        videos: From a published list.
        files: Of the videos' folder. ID_000084_000094.mp4 (times of six digits) is a clip already; of ID.mp4, the whole
          YouTube video, the part is cut.
        trimmed: ID.mp4 is a clip already, too.

    Returns:
        One clip a video; the path of one that is not there is ID_000084_000094.mp4.
    """
    clips = []
    for video in videos:
        name = f"{video.youtube_id}_{round(video.start_s):06d}_{round(video.end_s):06d}"
        cut, whole = files.find(name), files.find(video.youtube_id)
        if cut is None and whole is not None:
            times = (None, None) if trimmed else (video.start_s, video.end_s)
            clips.append(Clip(whole, video.label, *times))
        else:
            clips.append(Clip(cut or f"{name}.mp4", video.label))
    return clips


def normal_name(label: str) -> str:
    """The key under which classes of different sets are one: case, blanks, quotes and the known renamings removed."""
    plain = " ".join(re.sub(r"[\\\"]", "", label).replace("_", " ").casefold().split())
    return RENAMED.get(plain, plain).casefold()


def merge(train: dict[str, Sequence[Video]], held_out: Iterable[Video]) -> Merged:
    """Unites sets: one class per normal name, one video per YouTube id, none that is held out.

    Args:
        train: Set -> its videos. Where sets list the same video, the last set's label and times stay.
        held_out: Videos of validation and test lists.

    Returns:
        The videos in the order of the sets, newest first, and of their lists.
    """
    names = _merged_names([video.label for videos in train.values() for video in videos])
    excluded, taken = {video.youtube_id for video in held_out}, set()
    merged, counts = [], {}
    for name, videos in reversed(train.items()):
        count = Counter(listed=len(videos))
        for video in videos:
            fate = "held_out" if video.youtube_id in excluded else "duplicate" if video.youtube_id in taken else "kept"
            count[fate] += 1
            if fate == "kept":
                taken.add(video.youtube_id)
                merged.append(dataclasses.replace(video, label=names[normal_name(video.label)]))
        counts[name] = {fate: count[fate] for fate in ("listed", "held_out", "duplicate", "kept")}
    maps = {
        name: {label: names[normal_name(label)] for label in sorted({video.label for video in videos})}
        for name, videos in train.items()
    }
    return Merged(tuple(merged), maps, counts)


def map_table(mapping: dict[str, str], labels: Sequence[str]) -> str:
    """CSV text: a set's classes, numbered in alphabetical order, and the merged class of each, numbered by `labels`."""
    numbers = {label: number for number, label in enumerate(labels)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "name", "merged_number", "merged_name"])
    writer.writerows([i, name, numbers[merged], merged] for i, (name, merged) in enumerate(sorted(mapping.items())))
    return text.getvalue()


def _merged_names(labels: Iterable[str]) -> dict[str, str]:
    """Normal name -> the name to show: the newest set's spelling, or else what a renamed class is now called."""
    names = {}
    for label in labels:
        key, plain = normal_name(label), " ".join(label.split())
        if plain.casefold() == key or key not in names:
            names[key] = plain if plain.casefold() == key else key
    return names
