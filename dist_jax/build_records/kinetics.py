"""Kinetics 400, 600 and 700-2020 as published, and Kinetics-710, the three merged.

The published lists are CSV text with the columns label, youtube_id, time_start and time_end (seconds of the YouTube
video) and split; some test lists lack all but the ids. Kinetics-600 is published as train.txt and val.txt, of which
train.csv and val.csv are incomplete copies, and has a second test list, kinetics600_holdout_test.csv.

Kinetics-710 (UniFormerV2, arXiv 2211.09552) unites the classes of the three sets. Most have the same name up to case;
`RENAMED` holds those that a later set renamed. On the published lists 400 + 600 + 700 names give 710.
"""

import csv
import dataclasses
import io
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import tensorflow as tf

from dist_jax.build_records.video_files import VideoFiles
from dist_jax.errors import UserError
from dist_jax.files import read_text
from dist_jax.video.video_list import VideoSegment, csv_rows, parse_seconds

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
    label: str
    start_s: float
    end_s: float


@dataclasses.dataclass(frozen=True)
class Merged:
    """Kinetics-710 of one split."""

    videos: tuple[Video, ...]  # with the merged class names
    maps: dict[str, dict[str, str]]  # set -> its class name -> the merged one
    counts: dict[str, dict[str, int]]  # set -> videos: listed, held_out, duplicate, kept


def read_videos(path: str, split: str | None = None) -> list[Video]:
    """The lines of a published list; UserError if it has other columns, or lines of another split than `split`."""
    videos = []
    for line, row in csv_rows(path, read_text(path), ("label", "youtube_id", "time_start", "time_end")):
        place = f"{path}, line {line}"
        start, end = parse_seconds(row["time_start"], place), parse_seconds(row["time_end"], place)
        if end <= start or not row["youtube_id"] or not row["label"].strip():
            raise UserError(
                f"{place}: wanted label, youtube id and a start before the end; it is {','.join(row.values())}"
            )
        if split is not None and row.get("split", "").strip() not in ("", *SPLITS[split]):
            raise UserError(f"{place}: is of the split {row['split']!r}, but --split is {split!r}; change one of them")
        videos.append(Video(row["youtube_id"], row["label"].strip(), start, end))
    if not videos:
        raise UserError(f"{path}: lists no videos")
    return videos


def read_ids(path: str) -> set[str]:
    """The YouTube ids of a published list, whatever its other columns hold; UserError if it has none."""
    ids = {row["youtube_id"].strip() for _, row in csv_rows(path, read_text(path), ("youtube_id",))} - {""}
    if not ids:
        raise UserError(f"{path}: lists no videos")
    return ids


def list_path(folder: str, split: str) -> str:
    """The list of a split in the folder of a published set: train.csv, kinetics_400_validate.csv, val.txt...

    Of two that differ in their ending alone, the .txt, which is the complete one. Held-out test lists are no split.

    Raises:
        UserError: there is none, or more than one.
    """
    lists = _lists(folder)
    found = [name for name, words in lists.items() if words[-1] in SPLITS[split] and "holdout" not in words]
    found = [name for name in found if name.endswith(".txt") or f"{name[:-4]}.txt" not in found]
    if len(found) != 1:
        wanted = " or ".join(f"{word}.csv" for word in SPLITS[split])
        raise UserError(f"{folder}: wanted one list {wanted}; it has {', '.join(found or lists) or 'no CSV file'}")
    return os.path.join(folder, found[0])


def held_out_paths(folder: str) -> list[str]:
    """All validation and test lists in the folder of a published set; UserError if either kind is missing."""
    lists, held_out = _lists(folder), []
    for split in ("val", "test"):
        found = [name for name, words in lists.items() if set(words) & set(SPLITS[split])]
        if not found:
            raise UserError(f"{folder}: has no {split} list, whose videos must not be trained on; it has {[*lists]}")
        held_out += found
    return [os.path.join(folder, name) for name in sorted(set(held_out))]


def _lists(folder: str) -> dict[str, list[str]]:
    """Names of the lists in a folder, and the words in each name."""
    names = sorted(name for name in tf.io.gfile.listdir(folder) if name.endswith((".csv", ".txt")))
    return {name: re.split(r"[^a-z]+", name[:-4].lower()) for name in names}


def to_clips(videos: Iterable[Video], files: VideoFiles, trimmed: bool) -> list[VideoSegment]:
    """Where each video's file is, and which part of it is the clip.

    Args:
        videos: from a published list.
        files: of the videos' folder. ID_000084_000094.mp4 (times of six digits) is a clip already; of ID.mp4, the whole
          YouTube video, the part is cut.
        trimmed: ID.mp4 is a clip already, too.

    Returns:
        One clip a video; the path of one that is not there is ID_000084_000094.mp4, which is the key of all.
    """
    clips = []
    for video in videos:
        name = f"{video.youtube_id}_{round(video.start_s):06d}_{round(video.end_s):06d}"
        cut, whole = files.find(name), files.find(video.youtube_id)
        if cut is None and whole is not None:
            times = (None, None) if trimmed else (video.start_s, video.end_s)
            clips.append(VideoSegment(whole, video.label, *times, key=name))
        else:
            clips.append(VideoSegment(cut or f"{name}.mp4", video.label, key=name))
    return clips


def normal_name(label: str) -> str:
    """The key under which classes of different sets are one: case, blanks, quotes and the known renamings removed."""
    plain = " ".join(re.sub(r"[\\\"]", "", label).replace("_", " ").casefold().split())
    return RENAMED.get(plain, plain).casefold()


def merge(train: dict[str, Sequence[Video]], held_out: Collection[str]) -> Merged:
    """Unites sets: one class per normal name, one video per YouTube id, none that is held out.

    Args:
        train: set -> its videos. Where sets list the same video, the last set's label and times stay.
        held_out: YouTube ids of validation and test lists.

    Returns:
        The videos in the order of the sets, newest first, and of their lists.
    """
    names = _merged_names([video.label for videos in train.values() for video in videos])
    excluded, taken = frozenset(held_out), set()
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
