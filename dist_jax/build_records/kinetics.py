"""Published lists of Kinetics-400, -600 and -700-2020, and their union Kinetics-710.

The lists are CSV text with the columns label, youtube_id, time_start and time_end (seconds of the YouTube video) and
split. Some test lists have only ids. Kinetics-600 has complete lists train.txt and val.txt, incomplete copies train.csv
and val.csv, and a second test list kinetics600_holdout_test.csv.

Kinetics-710 (UniFormerV2, arXiv 2211.09552) merges the classes of the three sets. Most classes have the same name up to
case. `RENAMED` lists the renamed ones. With the published lists, the 400 + 600 + 700 names become 710.
"""

import csv
import dataclasses
import io
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from dist_jax.build_records.video_files import VideoFiles
from dist_jax.errors import UserError
from dist_jax.files import list_names, read_text
from dist_jax.video.video_list import VideoSegment, csv_rows, parse_seconds

SETS = ("kinetics400", "kinetics600", "kinetics700")
SPLITS = {"train": ("train",), "val": ("val", "validate", "validation"), "test": ("test",)}

# Name in one of the sets, in lower case -> name in the label map of Kinetics-710.
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
    """A row of a published list."""

    youtube_id: str
    label: str
    start_s: float
    end_s: float


@dataclasses.dataclass(frozen=True)
class Kinetics710:
    """A split of Kinetics-710."""

    videos: tuple[Video, ...]  # with merged class names
    class_maps: dict[str, dict[str, str]]  # set -> class name in the set -> merged class name
    counts: dict[str, dict[str, int]]  # set -> number of videos: listed, held_out, duplicate, kept


def read_videos(path: str, split: str | None = None) -> list[Video]:
    """Reads a published list. Raises UserError for invalid rows, and for rows of other splits if `split` is set."""
    videos = []
    for line, row in csv_rows(path, read_text(path), ("label", "youtube_id", "time_start", "time_end")):
        location = f"{path}, line {line}"
        start, end = parse_seconds(row["time_start"], location), parse_seconds(row["time_end"], location)
        if end <= start or not row["youtube_id"] or not row["label"].strip():
            raise UserError(
                f"{location}: expected a label, a YouTube id and a start before the end; got {','.join(row.values())}"
            )
        if split is not None and row.get("split", "").strip() not in ("", *SPLITS[split]):
            raise UserError(f"{location}: belongs to split {row['split']!r}, but --split is {split!r}")
        videos.append(Video(row["youtube_id"], row["label"].strip(), start, end))
    if not videos:
        raise UserError(f"{path}: contains no videos")
    return videos


def read_ids(path: str) -> set[str]:
    """Reads the YouTube ids of a published list. Other columns are ignored. Raises UserError if there are no ids."""
    ids = {row["youtube_id"].strip() for _, row in csv_rows(path, read_text(path), ("youtube_id",))} - {""}
    if not ids:
        raise UserError(f"{path}: contains no videos")
    return ids


def list_path(folder: str, split: str) -> str:
    """Path of the list of a split in the folder of a set: train.csv, kinetics_400_validate.csv, val.txt...

    If NAME.csv and NAME.txt exist, NAME.txt is used, because it is complete. Holdout test lists are ignored.

    Raises:
        UserError: there is no list or more than one.
    """
    lists = _find_lists(folder)
    matches = [name for name, words in lists.items() if words[-1] in SPLITS[split] and "holdout" not in words]
    matches = [name for name in matches if name.endswith(".txt") or f"{name[:-4]}.txt" not in matches]
    if len(matches) != 1:
        expected = " or ".join(f"{word}.csv" for word in SPLITS[split])
        contents = ", ".join(matches or lists) or "no CSV file"
        raise UserError(f"{folder}: expected one list {expected}; the folder has {contents}")
    return os.path.join(folder, matches[0])


def held_out_paths(folder: str) -> list[str]:
    """Paths of all validation and test lists in the folder of a set. Raises UserError if one of the two is missing."""
    lists, held_out = _find_lists(folder), []
    for split in ("val", "test"):
        matches = [name for name, words in lists.items() if set(words) & set(SPLITS[split])]
        if not matches:
            raise UserError(
                f"{folder}: no {split} list, which is needed to exclude its videos from training; "
                f"the folder has {', '.join(lists) or 'no CSV file'}"
            )
        held_out += matches
    return [os.path.join(folder, name) for name in sorted(set(held_out))]


def _find_lists(folder: str) -> dict[str, list[str]]:
    """File names of the lists in a folder -> words in the name."""
    names = [name for name in list_names(folder) if name.endswith((".csv", ".txt"))]
    return {name: re.split(r"[^a-z]+", name[:-4].lower()) for name in names}


def to_segments(videos: Iterable[Video], files: VideoFiles, trimmed: bool) -> list[VideoSegment]:
    """Finds the file of each video and the times of the segment in this file.

    Args:
        videos: rows of a published list.
        files: files in the folder of the videos. ID_000084_000094.mp4 (start and end with six digits) is the segment.
          ID.mp4 is the full YouTube video, from which the segment is cut.
        trimmed: ID.mp4 is also the segment.

    Returns:
        One segment per video. The key is ID_000084_000094, and also the path (with .mp4) if no file exists.
    """
    segments = []
    for video in videos:
        key = f"{video.youtube_id}_{round(video.start_s):06d}_{round(video.end_s):06d}"
        trimmed_file, full_file = files.find(key), files.find(video.youtube_id)
        if trimmed_file is None and full_file is not None:
            times = (None, None) if trimmed else (video.start_s, video.end_s)
            segments.append(VideoSegment(full_file, video.label, *times, key=key))
        else:
            segments.append(VideoSegment(trimmed_file or f"{key}.mp4", video.label, key=key))
    return segments


def normalize_name(label: str) -> str:
    """Name that is equal for the same class in all sets: ignores case, quotes and spacing, and applies `RENAMED`."""
    plain = " ".join(re.sub(r"[\\\"]", "", label).replace("_", " ").casefold().split())
    return RENAMED.get(plain, plain).casefold()


def merge(sets: Mapping[str, Sequence[Video]], held_out_ids: Collection[str]) -> Kinetics710:
    """Merges sets: one class per normalized name, one video per YouTube id, no held-out videos.

    Args:
        sets: set -> its videos, oldest set first. For a video in several sets, the last set gives label and times.
        held_out_ids: YouTube ids of validation and test lists.

    Returns:
        The videos, newest set first, each set in the order of its list.
    """
    names = _merged_names([video.label for videos in sets.values() for video in videos])
    excluded, seen = frozenset(held_out_ids), set()
    merged, counts = [], {}
    for name, videos in reversed(list(sets.items())):
        count = Counter(listed=len(videos))
        for video in videos:
            status = "held_out" if video.youtube_id in excluded else "duplicate" if video.youtube_id in seen else "kept"
            count[status] += 1
            if status == "kept":
                seen.add(video.youtube_id)
                merged.append(dataclasses.replace(video, label=names[normalize_name(video.label)]))
        counts[name] = {status: count[status] for status in ("listed", "held_out", "duplicate", "kept")}
    class_maps = {
        name: {label: names[normalize_name(label)] for label in sorted({video.label for video in videos})}
        for name, videos in sets.items()
    }
    return Kinetics710(tuple(merged), class_maps, counts)


def class_map_csv(class_map: dict[str, str], class_names: Sequence[str]) -> str:
    """CSV text of a class map. Classes of the set are numbered alphabetically, merged classes as in `class_names`."""
    numbers = {name: number for number, name in enumerate(class_names)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "name", "merged_number", "merged_name"])
    writer.writerows([i, name, numbers[merged], merged] for i, (name, merged) in enumerate(sorted(class_map.items())))
    return text.getvalue()


def _merged_names(labels: Iterable[str]) -> dict[str, str]:
    """Normalized name -> merged class name: the spelling of the newest set, or else the normalized name."""
    names = {}
    for label in labels:
        key, plain = normalize_name(label), " ".join(label.split())
        if plain.casefold() == key or key not in names:
            names[key] = plain if plain.casefold() == key else key
    return names
