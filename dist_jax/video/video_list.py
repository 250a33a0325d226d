"""List files of videos and their labels: lines `path label`, or CSV. No video is opened.

`class_folders.py` reads folders without a list, `build_records/datasets.py` the formats of public data sets.
"""

import csv
import dataclasses
import difflib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from dist_jax import class_names
from dist_jax.errors import UserError
from dist_jax.files import read_text
from dist_jax.video import list_lines

LIST_COLUMNS = ("path", "label", "labels", "start", "end", "caption")  # label or labels
_LABEL_SEPARATOR = "|"  # in the column labels


@dataclasses.dataclass(frozen=True)
class VideoSegment:
    """A part of a video and its label, or several labels."""

    path: str  # relative to the folder of the videos, or absolute
    label: str | None  # class name; None: no labels, or a verb and a noun (EPIC-KITCHENS)
    start_s: float | None = None  # seconds; None: the start of the video
    end_s: float | None = None  # seconds; None: the end of the video
    caption: str | None = None
    verb: int | None = None  # class number (EPIC-KITCHENS)
    noun: int | None = None  # class number (EPIC-KITCHENS)
    # Name of the segment in the annotations of its data set. `path` and the times depend on which files exist; the key
    # does not. Not compared: segments are equal if they are the same part of the same file.
    key: str | None = dataclasses.field(default=None, compare=False)
    narration_id: str | None = None  # name of the segment (EPIC-KITCHENS)
    other_labels: tuple[str, ...] = ()  # class names, in addition to `label`

    @property
    def labels(self) -> tuple[str, ...]:
        """All class names of the segment."""
        return () if self.label is None else (self.label, *self.other_labels)

    @property
    def identity(self) -> tuple:
        """Values that identify the segment. They do not depend on which files exist if `key` is set."""
        name, start, end = (self.path, self.start_s, self.end_s) if self.key is None else (self.key, None, None)
        values = name, self.label, start, end, self.caption, self.verb, self.noun
        # The identity decides a segment's shard. Without these values it is as it was before they existed.
        added = self.narration_id, self.other_labels
        return (*values, *added) if any(added) else values


def read_class_names(path: str) -> list[str]:
    """Class names, one per line. Raises UserError for an empty line or a duplicate name."""
    return class_names.parse(read_text(path), path)


def read_list(path: str, names: Sequence[str] | None = None, option: str = "--labels") -> list[VideoSegment]:
    """Reads a list file.

    Args:
        path: a file with lines `path label` (see `list_lines.py`), or a CSV file with the columns path and label, and
          optionally start and end (seconds) and caption. The column labels, instead of label, has any number of labels,
          separated by |. Lines that begin with # are comments. `~` in a path is the home folder.
        names: class names. With them, a label may also be a class number from 0.
        option: the option that sets class names, for the error message.

    Returns:
        The segments in the order of the file.

    Raises:
        UserError: the file is empty, a line is invalid or ambiguous, a value has a line break, a label is not in
          `names`, all labels are numbers but `names` is None, or a line is a duplicate.
    """
    text = read_text(path)
    if _is_csv(path, text):
        rows = _csv_segments(path, text)
    else:
        rows = [(line.number, VideoSegment(line.path, line.label)) for line in list_lines.read_lines(path, text)]
    if not rows:
        raise UserError(f"{path}: contains no videos; write one `path label` per line")
    rows = [
        (line, dataclasses.replace(segment, path=_local_path(segment.path, f"{path}, line {line}")))
        for line, segment in rows
    ]
    labels = [(line, label) for line, segment in rows for label in segment.labels]
    if names is None and not labels:
        raise UserError(f"{path}: no video has a label; set the file of class names with {option}")
    if names is None and all(list_lines.is_number(label) for _, label in labels):
        raise UserError(
            f"{path}: the labels are numbers (line {labels[0][0]}: {labels[0][1]}); set the file of class names "
            f"with {option}, because the model compares videos with class names"
        )
    if names is None:
        list_lines.warn_of_other_columns(path, labels)
    else:
        rows = [(line, _with_names(segment, names)) for line, segment in rows]
        check_labels([segment for _, segment in rows], names, [f"{path}, line {line}" for line, _ in rows])
    _check_unique(path, rows)
    return [segment for _, segment in rows]


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
        for label in (label for label in segment.labels if label not in known):
            nearest = difflib.get_close_matches(label, known, n=1, cutoff=0.0)[0]
            location = locations[number] if locations else segment.path
            raise UserError(
                f"{location}: label {label!r} is not among the {len(known)} class names; the nearest is {nearest!r}"
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
        (line number from 1, values by column name in lower case) of each row. A value may contain line breaks; the
        number is that of the row's first line.

    Raises:
        UserError: the text is not valid CSV, a column is missing or occurs twice, or a row has more or fewer values
          than the header.
    """
    rows: list[tuple[int, dict[str, str]]] = []
    header: list[str] = []
    for line, values in _numbered_rows(path, text):
        if not header:
            header = _check_header(path, values, columns)
        elif len(values) != len(header):
            raise UserError(f"{path}: line {line} has more or fewer values than the header; quote commas")
        else:
            rows.append((line, dict(zip(header, values, strict=True))))
    if not header:
        _check_header(path, [], columns)
    return rows


def _numbered_rows(path: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """The number of the first line and the values of each row that is not empty. Raises UserError for invalid CSV."""
    # newline=None: all kinds of line ends. strict: a quote that is not closed would hide the rows after it.
    reader = csv.reader(io.StringIO(text, newline=None), skipinitialspace=True, strict=True)
    first_line = 1
    try:
        for values in reader:
            if values:
                yield first_line, values
            first_line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}: invalid CSV in line {first_line} ({error}); check its double quotes") from error


def _check_header(path: str, values: Sequence[str], columns: Sequence[str]) -> list[str]:
    header = [name.strip().lower() for name in values]
    missing = [column for column in columns if column not in header]
    if missing:
        raise UserError(f"{path}: no column {missing[0]!r}; the header is {','.join(header)!r}")
    if len(set(header)) < len(header):
        raise UserError(f"{path}: the header {','.join(header)!r} has a column twice; remove one")
    return header


def _is_csv(path: str, text: str) -> bool:
    """Whether the first line with content is a CSV header. Raises UserError for a header with other separators."""
    lines = enumerate(map(str.strip, list_lines.split_lines(text)), 1)
    number, header = next(((n, line) for n, line in lines if line and not line.startswith("#")), (0, ""))
    for separator, name in {",": "", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}.items():
        columns = [column.strip().strip('"').lower() for column in header.split(separator)]
        if "path" in columns and (len(columns) > 1 or not name):
            if name:
                raise UserError(
                    f"{path}, line {number}: the columns of the header {header!r} are separated by {name}; separate "
                    "the columns of a CSV file by commas (path,label)"
                )
            return True
    return False


def _without_comments(text: str) -> str:
    """CSV text with empty lines in place of comments, which keeps the line numbers."""
    lines, is_quoted = [], False
    for line in list_lines.split_lines(text):
        is_comment = not is_quoted and line.lstrip().startswith("#")
        lines.append("" if is_comment else line)
        is_quoted ^= not is_comment and line.count('"') % 2 == 1
    return "\n".join(lines)


def _local_path(path: str, location: str) -> str:
    """The path with `~` replaced by the home folder. Raises UserError for the backslashes of Windows."""
    if "\\" in path and os.sep == "/":
        raise UserError(f"{location}: the path {path!r} has backslashes; write / between folders")
    return os.path.expanduser(path)


def _csv_segments(path: str, text: str) -> list[tuple[int, VideoSegment]]:
    rows = csv_rows(path, _without_comments(text), ("path",))
    columns = [*rows[0][1]] if rows else []
    if rows and ("label" in columns) == ("labels" in columns):
        problem = (
            "the columns 'label' and 'labels'; remove one" if "label" in columns else "no column 'label' or 'labels'"
        )
        raise UserError(f"{path}: {problem}; the header is {','.join(columns)!r}")
    unknown = [column for column in columns if column not in LIST_COLUMNS]
    if unknown:
        raise UserError(f"{path}: unknown column {unknown[0]!r}; the columns are {','.join(LIST_COLUMNS)}")
    return [(line, _csv_segment(f"{path}, line {line}", row)) for line, row in rows]


def _csv_segment(location: str, row: dict[str, str]) -> VideoSegment:
    broken = next((name for name, value in row.items() if "\n" in value), None)
    if broken:
        raise UserError(f"{location}: the {broken} {row[broken]!r} has a line break; check its double quotes")
    values = {name: value.strip() or None for name, value in row.items()}
    if not values["path"] or not values.get("label", "labels"):
        raise UserError(f"{location}: path and label must not be empty")
    if any(value and len(value) > 1 and value[0] == value[-1] == "'" for value in values.values()):
        raise UserError(
            f"{location}: {','.join(row.values())!r} has single quotes; the quotes of CSV are double quotes"
        )
    start, end = (None if values.get(n) is None else parse_seconds(values[n], location) for n in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise UserError(f"{location}: end {end:g} s must be after start {start or 0:g} s")
    labels = [values["label"]] if "label" in values else _split_labels(values["labels"] or "", location)
    segment = VideoSegment(values["path"], None, start, end, values.get("caption"))
    return _with_labels(segment, labels)


def _split_labels(text: str, location: str) -> list[str]:
    """The labels in a value of the column labels; an empty value has none."""
    labels = [label.strip() for label in text.split(_LABEL_SEPARATOR)] if text else []
    if "" in labels or len(set(labels)) < len(labels):
        raise UserError(f"{location}: the labels {text!r} have an empty or repeated label; separate them by one |")
    return labels


def _with_labels(segment: VideoSegment, labels: Sequence[str]) -> VideoSegment:
    first = labels[0] if labels else None
    return dataclasses.replace(segment, label=first, other_labels=tuple(labels[1:]))


def _with_names(segment: VideoSegment, names: Sequence[str]) -> VideoSegment:
    return _with_labels(segment, [_to_name(label, names) for label in segment.labels])


def _to_name(label: str, names: Sequence[str]) -> str:
    """Converts a class number to its name. A label that is a name itself is not converted."""
    return names[int(label)] if label not in names and label.isdecimal() and int(label) < len(names) else label


def _check_unique(path: str, rows: Sequence[tuple[int, VideoSegment]]) -> None:
    first_lines: dict[VideoSegment, int] = {}
    for line, segment in rows:
        normalized = dataclasses.replace(segment, path=os.path.normpath(segment.path))  # ./a.mp4 is a.mp4
        if normalized in first_lines:
            raise UserError(
                f"{path}: lines {first_lines[normalized]} and {line} are the same segment of {segment.path}; remove one"
            )
        first_lines[normalized] = line
