"""Lists of videos and their labels: a list file, or a folder per class. No video is opened.

The formats of public data sets are in `build_records/datasets.py`.
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
    """A part of a video and its label."""

    path: str  # relative to the folder of the videos, or absolute
    label: str | None  # class name; None for EPIC-KITCHENS, which has verb and noun
    start_s: float | None = None  # seconds; None: the start of the video
    end_s: float | None = None  # seconds; None: the end of the video
    caption: str | None = None
    verb: int | None = None  # class number (EPIC-KITCHENS)
    noun: int | None = None  # class number (EPIC-KITCHENS)
    # Name of the segment in the annotations of its data set. `path` and the times depend on which files exist; the key
    # does not. Not compared: segments are equal if they are the same part of the same file.
    key: str | None = dataclasses.field(default=None, compare=False)

    @property
    def identity(self) -> tuple:
        """Values that identify the segment. They do not depend on which files exist if `key` is set."""
        name, start, end = (self.path, self.start_s, self.end_s) if self.key is None else (self.key, None, None)
        return name, self.label, start, end, self.caption, self.verb, self.noun


def read_class_names(path: str) -> list[str]:
    """Class names, one per line. Raises UserError for an empty line or a duplicate name."""
    return class_names.parse(read_text(path), path)


def read_list(path: str, names: Sequence[str] | None = None, option: str = "--labels") -> list[VideoSegment]:
    """Reads a list file.

    Args:
        path: a file with lines `path label`; the path ends at the first tab, or else at the first space. Or a CSV file
          with the columns path and label, and optionally start and end (seconds) and caption.
        names: class names. With them, a label may also be a class number from 0.
        option: the option that sets class names, for the error message.

    Returns:
        The segments in the order of the file.

    Raises:
        UserError: the file is empty, a line is invalid, a label is not in `names`, all labels are numbers but `names`
          is None, or a line is a duplicate.
    """
    text = read_text(path)
    lines = text.splitlines()
    header = lines[0].lower().split(",") if lines else []
    rows = (
        _csv_segments(path, text) if "path" in [column.strip() for column in header] else _plain_segments(path, lines)
    )
    if not rows:
        raise UserError(f"{path}: contains no videos; write one `path label` per line")
    if names is None and all(segment.label.isdecimal() for _, segment in rows):
        raise UserError(
            f"{path}: the labels are numbers (line {rows[0][0]}: {rows[0][1].label}); set the file of class names "
            f"with {option}, because the model compares videos with class names"
        )
    if names is not None:
        rows = [(line, dataclasses.replace(segment, label=_to_name(segment.label, names))) for line, segment in rows]
        check_labels([segment for _, segment in rows], names, [f"{path}, line {line}" for line, _ in rows])
    _check_unique(path, rows)
    return [segment for _, segment in rows]


def read_folders(folder: str) -> list[VideoSegment]:
    """One segment per video of a folder with one subfolder per class. The label is the name of the subfolder.

    Raises:
        UserError: the folder does not exist or has no videos in subfolders.
    """
    if not is_folder(folder):
        raise UserError(f"{folder}: no such folder; set the folder of the videos with --videos")
    segments = []
    for name in list_folder(folder):
        if is_folder(os.path.join(folder, name)):
            files = list_folder(os.path.join(folder, name))
            videos = [file for file in files if file.lower().endswith(VIDEO_SUFFIXES)]
            segments += [VideoSegment(os.path.join(name, video), name) for video in videos]
    if not segments:
        raise UserError(
            f"{folder}: no subfolder contains videos ({' '.join(VIDEO_SUFFIXES)}); make one subfolder per class, or "
            "list the videos and their labels with --list"
        )
    return segments


def check_labels(
    segments: Sequence[VideoSegment], names: Iterable[str], locations: Sequence[str] | None = None
) -> None:
    """Raises UserError for the first label that is not in `names`, with the most similar name.

    Args:
        segments: segments without a label are not checked.
        names: class names.
        locations: file and line of each segment, for the error message. None: the path of the video.
    """
    known = set(names)
    for number, segment in enumerate(segments):
        if segment.label is not None and segment.label not in known:
            nearest = difflib.get_close_matches(segment.label, known, n=1, cutoff=0.0)[0]
            location = locations[number] if locations else segment.path
            raise UserError(
                f"{location}: label {segment.label!r} is not among the {len(known)} class names; "
                f"the nearest is {nearest!r}"
            )


def parse_seconds(text: str, location: str) -> float:
    """Parses `12.5` or `00:01:02.50` to seconds. Raises UserError with `location` for any other text."""
    if not re.fullmatch(r"(\d+:){0,2}(\d+\.?\d*|\.\d+)", text):
        raise UserError(f"{location}: {text!r} is not a time; write seconds (12.5) or HH:MM:SS (00:01:02.5)")
    return sum(float(part) * 60**power for power, part in enumerate(reversed(text.split(":"))))


def csv_rows(path: str, text: str, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Parses CSV text whose header contains `columns`.

    Args:
        path: the file, for error messages.
        text: the contents of the file.
        columns: required columns, in lower case.

    Returns:
        (line number from 1, values by column name in lower case) of each row.

    Raises:
        UserError: the text is not valid CSV, a column is missing, or a row has more or fewer values than the header.
    """
    reader = csv.DictReader(io.StringIO(text, newline=None), skipinitialspace=True)  # None: all kinds of line ends
    rows = []
    try:
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
        missing = [column for column in columns if column not in reader.fieldnames]
        if missing:
            raise UserError(f"{path}: no column {missing[0]!r}; the header is {','.join(reader.fieldnames)!r}")
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"{path}: line {reader.line_num} has more or fewer values than the header; quote commas"
                )
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise UserError(f"{path}: invalid CSV after line {reader.line_num} ({error})") from error
    return rows


def _csv_segments(path: str, text: str) -> list[tuple[int, VideoSegment]]:
    rows = csv_rows(path, text, ("path", "label"))
    unknown = [column for column in rows[0][1] if column not in LIST_COLUMNS] if rows else []
    if unknown:
        raise UserError(f"{path}: unknown column {unknown[0]!r}; the columns are {','.join(LIST_COLUMNS)}")
    return [(line, _csv_segment(f"{path}, line {line}", row)) for line, row in rows]


def _csv_segment(location: str, row: dict[str, str]) -> VideoSegment:
    values = {name: value.strip() or None for name, value in row.items()}
    if not values["path"] or not values["label"]:
        raise UserError(f"{location}: path and label must not be empty")
    start, end = (None if values.get(n) is None else parse_seconds(values[n], location) for n in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise UserError(f"{location}: end {end:g} s must be after start {start or 0:g} s")
    return VideoSegment(values["path"], values["label"], start, end, values.get("caption"))


def _plain_segments(path: str, lines: Sequence[str]) -> list[tuple[int, VideoSegment]]:
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        video, _, label = line.strip().partition("\t" if "\t" in line.strip() else " ")
        if not label.strip():
            raise UserError(f"{path}, line {number}: {line.strip()!r} has no label; write `path label`")
        rows.append((number, VideoSegment(video.strip(), " ".join(label.split()))))
    return rows


def _to_name(label: str, names: Sequence[str]) -> str:
    """Converts a class number to its name. A label that is a name itself is not converted."""
    return names[int(label)] if label not in names and label.isdecimal() and int(label) < len(names) else label


def _check_unique(path: str, rows: Sequence[tuple[int, VideoSegment]]) -> None:
    first_lines: dict[VideoSegment, int] = {}
    for line, segment in rows:
        if segment in first_lines:
            raise UserError(
                f"{path}: lines {first_lines[segment]} and {line} are the same segment of {segment.path}; remove one"
            )
        first_lines[segment] = line
