"""Which clips there are, and what they show: lists and folders of one's own.

The formats that data sets are published in are in `datasets.py`. No video is opened.
"""

import csv
import dataclasses
import difflib
import io
import os
import re
from collections.abc import Iterable, Sequence

from dist_jax import class_names
from dist_jax.errors import UserError
from dist_jax.files import is_folder, list_folder, read_text

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts")
LIST_COLUMNS = ("path", "label", "start", "end", "caption")


@dataclasses.dataclass(frozen=True)
class VideoSegment:
    """A part of a video and what it shows."""

    path: str  # of the video, relative to the videos' folder, or absolute
    label: str | None  # class name; None where only a verb and a noun are known
    start_s: float | None = None  # seconds; None: the beginning
    end_s: float | None = None  # seconds; None: the end
    caption: str | None = None
    verb: int | None = None  # class numbers of EPIC-KITCHENS
    noun: int | None = None
    # What the annotations call the clip, where path and times say which file was found for it. Not compared: clips are
    # equal if they show the same part of the same file.
    key: str | None = dataclasses.field(default=None, compare=False)

    @property
    def identity(self) -> tuple:
        """What the clip is, whichever files are there."""
        name, start, end = (self.path, self.start_s, self.end_s) if self.key is None else (self.key, None, None)
        return name, self.label, start, end, self.caption, self.verb, self.noun


def read_labels(path: str) -> list[str]:
    """Class names, one a line, in the order of their numbers; UserError on an empty line or a name given twice."""
    return class_names.parse(read_text(path), path)


def read_list(path: str, labels: Sequence[str] | None = None, option: str = "--labels") -> list[VideoSegment]:
    """Clips of a list file.

    Args:
        path: lines `path label words`, the path ending at the first tab or else the first space; or a CSV file whose
          header has the columns path and label, and optionally start and end (seconds) and caption.
        labels: class names. With them a label may also be a number from 0.
        option: how the user gives class names, for the message.

    Returns:
        The clips in their order.

    Raises:
        UserError: the file is empty or a line is not of that form, a label is not among `labels`, labels are numbers
          without `labels` to name them, or a line stands there twice.
    """
    text = read_text(path)
    lines = text.splitlines()
    header = lines[0].lower().split(",") if lines else []
    rows = _csv_rows(path, text) if "path" in [column.strip() for column in header] else _plain_rows(path, lines)
    if not rows:
        raise UserError(f"{path}: names no videos; write one a line: path label")
    if labels is None and all(clip.label.isdecimal() for _, clip in rows):
        raise UserError(
            f"{path}: the labels are numbers (line {rows[0][0]}: {rows[0][1].label}); give the class names' file "
            f"with {option}, because clips are compared with the names"
        )
    if labels is not None:
        rows = [(line, dataclasses.replace(clip, label=_named(clip.label, labels))) for line, clip in rows]
        check_labels([clip for _, clip in rows], labels, [f"{path}, line {line}" for line, _ in rows])
    _refuse_twice(path, rows)
    return [clip for _, clip in rows]


def read_folders(folder: str) -> list[VideoSegment]:
    """Clips of a folder that holds one folder of videos per class; the class is the folder's name."""
    if not is_folder(folder):
        raise UserError(f"{folder}: there is no such folder; --videos names it")
    clips = []
    for name in list_folder(folder):
        if is_folder(os.path.join(folder, name)):
            files = list_folder(os.path.join(folder, name))
            clips += [
                VideoSegment(os.path.join(name, file), name) for file in files if file.lower().endswith(VIDEO_SUFFIXES)
            ]
    if not clips:
        raise UserError(
            f"{folder}: holds no folder with videos ({' '.join(VIDEO_SUFFIXES)}); "
            "make one folder per class, or name the videos and their labels with --list"
        )
    return clips


def check_labels(clips: Sequence[VideoSegment], labels: Iterable[str], places: Sequence[str] | None = None) -> None:
    """Raises UserError for the first clip whose label is not among `labels`, with the nearest name.

    Args:
        clips: with labels, or with a verb and a noun in their place.
        labels: class names.
        places: where each clip is from, for the message.
    """
    known = set(labels)
    for number, clip in enumerate(clips):
        if clip.label is not None and clip.label not in known:
            near = difflib.get_close_matches(clip.label, known, n=1, cutoff=0.0)
            place = places[number] if places else clip.path
            raise UserError(
                f"{place}: label {clip.label!r} is not among the {len(known)} class names; the nearest is {near[0]!r}"
            )


def parse_seconds(text: str, place: str) -> float:
    """Seconds, from `12.5` or `00:01:02.50`; UserError naming `place` for anything else."""
    if not re.fullmatch(r"(\d+:){0,2}(\d+\.?\d*|\.\d+)", text):
        raise UserError(f"{place}: {text!r} is no time; write seconds (12.5) or HH:MM:SS (00:01:02.5)")
    return sum(float(part) * 60**power for power, part in enumerate(reversed(text.split(":"))))


def csv_rows(path: str, text: str, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """(line number, row) of a CSV text with a header that has `columns`, names in lower case; UserError otherwise."""
    reader = csv.DictReader(io.StringIO(text, newline=None), skipinitialspace=True)  # None: line ends of all systems
    rows = []
    try:
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
        missing = [column for column in columns if column not in reader.fieldnames]
        if missing:
            raise UserError(f"{path}: has no column {missing[0]!r}; its header is {','.join(reader.fieldnames)!r}")
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"{path}: line {reader.line_num} has more or fewer values than the header; quote commas"
                )
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise UserError(f"{path}: is no CSV behind line {reader.line_num} ({error})") from error
    return rows


def _csv_rows(path: str, text: str) -> list[tuple[int, VideoSegment]]:
    rows = csv_rows(path, text, ("path", "label"))
    unknown = [column for column in rows[0][1] if column not in LIST_COLUMNS] if rows else []
    if unknown:
        raise UserError(f"{path}: column {unknown[0]!r} is not known; the columns are {','.join(LIST_COLUMNS)}")
    return [(line, _csv_clip(f"{path}, line {line}", row)) for line, row in rows]


def _csv_clip(place: str, row: dict[str, str]) -> VideoSegment:
    values = {name: value.strip() or None for name, value in row.items()}
    if not values["path"] or not values["label"]:
        raise UserError(f"{place}: path and label are both needed")
    start, end = (None if values.get(n) is None else parse_seconds(values[n], place) for n in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise UserError(f"{place}: the end, {end:g} s, is not after the start, {start or 0:g} s")
    return VideoSegment(values["path"], values["label"], start, end, values.get("caption"))


def _plain_rows(path: str, lines: Sequence[str]) -> list[tuple[int, VideoSegment]]:
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, label = line.strip().partition("\t" if "\t" in line.strip() else " ")
        if not label.strip():
            raise UserError(f"{path}, line {number}: {line.strip()!r} has no label; write: path label")
        rows.append((number, VideoSegment(name.strip(), " ".join(label.split()))))
    return rows


def _named(label: str, labels: Sequence[str]) -> str:
    """The class name of a label that may be a number."""
    return labels[int(label)] if label not in labels and label.isdecimal() and int(label) < len(labels) else label


def _refuse_twice(path: str, rows: Sequence[tuple[int, VideoSegment]]) -> None:
    first: dict[VideoSegment, int] = {}
    for line, clip in rows:
        if clip in first:
            raise UserError(f"{path}: lines {first[clip]} and {line} are the same clip, {clip.path}; remove one")
        first[clip] = line
