"""The splits of an evaluation: lists of videos (UCF101, HMDB51) or lists of classes (Kinetics-600).

All videos are scored once. A split selects videos, and with a list of classes also the classes that compete.
"""

import dataclasses
import glob
import os
import re
from collections.abc import Sequence

import ml_collections
import numpy as np

from dist_jax import class_names as names_file
from dist_jax.errors import UserError
from dist_jax.files import exists, read_text

_HMDB51 = re.compile(r"(?P<folder>.+)_test_split\d\.txt")  # one file per class and split
_HMDB51_TEST = "2"  # 1: training video, 0: neither
_LISTED = 5  # names in a message


@dataclasses.dataclass(frozen=True)
class Split:
    """A part of the scored videos."""

    name: str
    rows: np.ndarray  # numbers of its videos, int64 [m], m > 0
    classes: np.ndarray | None = None  # numbers of its classes, int64 [k]; None: all
    missing: Sequence[str] = ()  # listed videos that were not scored
    dropped: int = 0  # scored videos of other classes

    @property
    def note(self) -> str:
        """One line about missing or dropped videos; empty if there are none."""
        if self.missing:
            names = ", ".join([*self.missing[:_LISTED], *(["..."] if len(self.missing) > _LISTED else [])])
            return f"{self.name}: {len(self.missing)} of {len(self.missing) + len(self.rows)} videos missing: {names}"
        return f"{self.name}: {self.dropped} videos of other classes dropped" if self.dropped else ""


def read_splits(
    settings: ml_collections.ConfigDict, class_names: Sequence[str], ids: Sequence[str], labels: np.ndarray
) -> list[Split]:
    """The splits of eval.video_lists or eval.class_lists; one split of all videos if both are empty.

    Args:
        settings: config.eval.
        class_names: K names.
        ids: names of the n scored videos.
        labels: their classes, int32 [n], or bool [n, K].

    Raises:
        UserError: a list does not exist, names an unknown class or a video twice, or selects no scored video.
    """
    if settings.video_lists:
        numbers = _number_by_key(ids)
        return [_video_split(item, numbers) for item in settings.video_lists.split(",")]
    if settings.class_lists:
        return [_class_split(path, class_names, labels) for path in settings.class_lists.split(",")]
    return [Split("all", np.arange(len(ids)))]


def check_video_lists(item: str) -> None:
    """Raises UserError if an item of eval.video_lists, a list or a glob of lists, is missing or empty."""
    paths = _list_paths(item)
    if not paths or not all(map(exists, paths)):
        raise UserError(f"eval.video_lists: {item} does not exist; use the published lists of the test videos")
    if not any(read_text(path).strip() for path in paths):
        raise UserError(f"eval.video_lists: {item} lists no videos; use the published lists of the test videos")


def _list_paths(item: str) -> list[str]:
    """The path of a list, or the sorted paths of the lists that match a glob."""
    return sorted(glob.glob(item)) if glob.has_magic(item) else [item]


def _video_split(item: str, numbers: dict[str, int]) -> Split:
    """The split of a list, or of the lists that match a glob."""
    listed = [name for path in _list_paths(item) for name in _listed_videos(path)]
    _check_unique(item, listed)
    rows = [numbers[_key(name)] for name in listed if _key(name) in numbers]
    if not rows:
        raise UserError(
            f"eval.video_lists: {item} lists {len(listed)} videos, and none of them is in data.val; the last "
            f"folder and the file name must be equal, e.g. {_key(listed[0]) if listed else 'CLASS/NAME'}"
        )
    missing = [name for name in listed if _key(name) not in numbers]
    return Split(_name(item), np.asarray(rows, np.int64), missing=missing)


def _check_unique(item: str, listed: Sequence[str]) -> None:
    """Raises UserError if two names of a list mean the same video: it would count twice."""
    names: dict[str, str] = {}  # by key
    for name in listed:
        if _key(name) in names:
            raise UserError(
                f"eval.video_lists: {item} lists a video twice: {names[_key(name)]} and {name}; list each video once "
                "(the last folder and the file name without its suffix identify it)"
            )
        names[_key(name)] = name


def _listed_videos(path: str) -> list[str]:
    """Paths CLASS/NAME in a list: one per line, perhaps with a class number; or a file of HMDB51."""
    if not exists(path):
        raise UserError(f"eval.video_lists: {path} does not exist; use the published lists of the test videos")
    hmdb51 = _HMDB51.fullmatch(os.path.basename(path))
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not hmdb51:
        return [re.sub(r"\s+\d+$", "", line) for line in lines]
    words = [line.rsplit(maxsplit=1) for line in lines]
    return [f"{hmdb51['folder']}/{name}" for name, code in words if code == _HMDB51_TEST]


def _class_split(path: str, class_names: Sequence[str], labels: np.ndarray) -> Split:
    if not exists(path):
        raise UserError(f"eval.class_lists: {path} does not exist; write one class name per line")
    numbers = {name: number for number, name in enumerate(class_names)}
    names = names_file.parse(read_text(path), path)
    unknown = [name for name in names if name not in numbers]
    if unknown:
        shown = ", ".join(map(repr, unknown[:_LISTED]))
        raise UserError(
            f"eval.class_lists: {path} has {len(unknown)} names that are not classes of data.val: {shown}; write them "
            "as in data.class_names_file"
        )
    classes = np.array([numbers[name] for name in names], np.int64)
    selected = np.isin(labels, classes)
    if not selected.any():
        raise UserError(f"eval.class_lists: no video of data.val has a class of {path}")
    return Split(_name(path), np.flatnonzero(selected), classes, dropped=int((~selected).sum()))


def _number_by_key(ids: Sequence[str]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for number, name in enumerate(ids):
        if _key(name) in numbers:
            raise UserError(
                f"eval.video_lists: data.val contains the videos {ids[numbers[_key(name)]]} and {name}; a folder and a "
                "file name must identify a video"
            )
        numbers[_key(name)] = number
    return numbers


def _key(path: str) -> str:
    """The last folder and the file name without its suffix: data sets are often converted to another format."""
    return os.path.splitext("/".join(path.split("/")[-2:]))[0]


def _name(item: str) -> str:
    """The name of a list without folder, suffix and the characters of a glob."""
    return re.sub(r"[*?\[\]]", "", os.path.splitext(os.path.basename(item))[0]).strip("_") or item
