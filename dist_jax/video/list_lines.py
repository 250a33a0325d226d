"""Lists with lines `path label`. A line with two possible meanings is an error, not a guess.

The path ends at the tab. Without a tab, it ends after the suffix of a video (see `suffixes.py`), or else at the first
space. Lines that begin with # are comments.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dist_jax.errors import UserError, warn_once
from dist_jax.video.suffixes import VIDEO_SUFFIXES, has_video_suffix

_CSV = "write a CSV file with the header path,label"
_SOLUTIONS = f"Put a tab between path and label, or {_CSV}"
_QUOTES = "\"'"
_SUFFIX = f"(?:{'|'.join(re.escape(suffix) for suffix in sorted(VIDEO_SUFFIXES, key=len, reverse=True))})"
_PATH_END = re.compile(rf"{_SUFFIX}(?!\S)", re.IGNORECASE)
_VIDEO_NAME = re.compile(rf"{_SUFFIX}(?![\w.-])", re.IGNORECASE)  # also before a comma or a semicolon
_SEPARATED_VIDEO = re.compile(rf"{_SUFFIX}[,;:|\"']", re.IGNORECASE)
_SEPARATOR = re.compile(r"^([,;:|=]|[-=]+>?\s)|[,;|]$")  # at the start or the end of a label
_FILE_NAME = re.compile(r"[\w)\]]\.(?=\d*[a-z])\w{2,5}(?!\S)", re.IGNORECASE)  # "a.xyz", but not "U.S." or "2.50"
_NUMBER = re.compile(r"[-+]?\d+([.,:]\d+)*")
_HEADER = re.compile(
    r"((video|file|clip|class|action|label|category|target)s?[ _]?)?(path|file|name|id|index|number|label|class)?s?",
    re.IGNORECASE,
)


class ListLine(NamedTuple):
    """A line of a list."""

    number: int  # from 1
    path: str
    label: str
    has_sure_path: bool = True  # the path ends at a tab or has a suffix


def read_lines(source: str, text: str) -> list[ListLine]:
    """Splits all lines of a list. Prints a warning for comments that look like videos.

    Args:
        source: the file, for error messages.
        text: its contents.

    Raises:
        UserError: a line has no label, other columns or several possible meanings.
    """
    lines, comments = [], []
    for number, line in enumerate(map(str.strip, split_lines(text)), 1):
        if line.startswith("#"):
            comments += [f"line {number}: {line!r}"] if _PATH_END.search(line) else []
        elif line:
            lines.append(_split(line, number, f"{source}, line {number}"))
    if comments:
        warn_once(
            f"{source}: comments that look like videos: {len(comments)}, first {comments[0]}. If the name of a file "
            "begins with #, write ./#..."
        )
    sure = [line for line in lines if line.has_sure_path]
    unsure = [line for line in lines if not line.has_sure_path and not _FILE_NAME.search(line.path)]
    if sure and unsure:
        number, path, label, _ = unsure[0]
        raise UserError(
            f"{source}, line {number}: read as the path {path!r} and the label {label!r}, but this path has no file "
            f"suffix, unlike line {sure[0].number} ({sure[0].path!r}). If it is a header, remove it. Otherwise: "
            f"{_SOLUTIONS}"
        )
    return lines


def split_lines(text: str) -> list[str]:
    """The lines of a text. Unlike str.splitlines, it does not split at characters that file names may contain."""
    return re.split(r"\r\n|\r|\n", text)


def warn_of_other_columns(source: str, labels: Sequence[tuple[int, str]]) -> None:
    """Prints a warning for labels that may contain another column of the list.

    These are labels that occur once and end with a number or contain a file name. They are also all labels of a list in
    which each begins, or each ends, with a number.

    Args:
        source: the file.
        labels: (line number, label) of each line.
    """
    counts = Counter(label for _, label in labels)
    _warn_of(
        source,
        "occur once and end with a number or contain a file name",
        labels,
        lambda label: counts[label] == 1 and (is_number(label.split()[-1]) or _FILE_NAME.search(label) is not None),
    )
    for what, word in {"begin with a number": 0, "end with a number": -1}.items():
        if len(labels) > 1 and all(" " in label and is_number(label.split()[word]) for _, label in labels):
            _warn_of(source, what, labels, lambda label: True)


def _warn_of(source: str, what: str, labels: Sequence[tuple[int, str]], is_suspicious: Callable[[str], bool]) -> None:
    suspicious = [(number, label) for number, label in labels if is_suspicious(label)]
    if suspicious:
        number, label = suspicious[0]
        num_classes, num_all = len({label for _, label in suspicious}), len({label for _, label in labels})
        warn_once(
            f"{source}: {num_classes} of {num_all} class names {what}, first {label!r} (line {number}). Check that "
            "they are class names, without other columns"
        )


def _split(line: str, number: int, location: str) -> ListLine:
    if line[0] in _QUOTES and line[0] in line[1:]:
        raise _quotes_error(line, location)
    path, label, has_sure_path = (_split_at_tab if "\t" in line else _split_at_space)(line, location)
    label = " ".join(label.split())
    if label[0] in _QUOTES and label[0] == label[-1]:
        raise _quotes_error(line, location)
    numbers = [is_number(word) for word in label.split(" ")]
    if len(numbers) > 1 and (all(numbers) or ("\t" not in line and (all(numbers[:2]) or all(numbers[-2:])))):
        form = " ".join("number" if is_single else "word" for is_single in numbers)
        raise UserError(
            f"{location}: {line!r} is `path {form}`, not `path label`: read as the path {path!r} and the label "
            f"{label!r}. Remove the other numbers, or {_CSV} or path,label,start,end (seconds)"
        )
    if _HEADER.fullmatch(path) and _HEADER.fullmatch(label):
        raise UserError(f"{location}: {line!r} is a header. Remove this line, or {_CSV}")
    return ListLine(number, path, label, has_sure_path)


def _split_at_tab(line: str, location: str) -> tuple[str, str, bool]:
    columns = [column.strip() for column in line.split("\t") if column.strip()]
    if len(columns) > 2:
        raise UserError(
            f"{location}: {line!r} has {len(columns)} columns, read as {columns}; a list has two, path and label. For "
            "times write a CSV file with the header path,label,start,end (seconds)"
        )
    path, label = columns
    if _VIDEO_NAME.search(label) and not _VIDEO_NAME.search(path):
        raise UserError(
            f"{location}: {line!r} is read as the path {path!r} and the label {label!r}, which is a video. Write the "
            f"path first, or {_CSV}"
        )
    end = _PATH_END.search(path)
    if end and not has_video_suffix(path):
        raise _ambiguous(line, location, [(path, label), (line[: end.end()], line[end.end() :])])
    return path, label, True


def _split_at_space(line: str, location: str) -> tuple[str, str, bool]:
    ends = [match.end() for match in _PATH_END.finditer(line)]
    if len(ends) > 1:
        raise _ambiguous(line, location, [(line[:end], line[end:]) for end in ends[:2]])
    if ends == [len(line)] or not re.search(r"\s", line):
        raise UserError(f"{location}: {line!r} has no label after the path {line!r}. {_SOLUTIONS}")
    path, label = (line[: ends[0]], line[ends[0] :]) if ends else re.split(r"\s+", line, maxsplit=1)
    contains_path = _VIDEO_NAME.search(label) or (
        not ends and ("/" in label or any(map(_FILE_NAME.search, label.split())))
    )
    if contains_path or _SEPARATED_VIDEO.search(path) or _SEPARATOR.search(label.strip()):
        raise _ambiguous(line, location, [(path, label)])
    if re.search(r"\s#", label):
        raise UserError(
            f"{location}: {line!r} is read as the path {path!r} and the label {label.strip()!r}. A comment needs its "
            f"own line. If # belongs to the label: {_SOLUTIONS}"
        )
    return path, label, bool(ends)


def is_number(text: str) -> bool:
    """Whether a text is a number or a time, such as 3, -1, 0.5 or 1:30."""
    return _NUMBER.fullmatch(text) is not None


def _ambiguous(line: str, location: str, meanings: Sequence[tuple[str, str]]) -> UserError:
    text = " or as ".join(f"the path {path!r} and the label {label.strip()!r}" for path, label in meanings)
    return UserError(f"{location}: {line!r} has several meanings; it can be read as {text}. {_SOLUTIONS}")


def _quotes_error(line: str, location: str) -> UserError:
    return UserError(
        f"{location}: {line!r} has quotes, which may belong to the name or not. Remove them and put a tab between path "
        f"and label, or {_CSV}"
    )
