"""Videos in one folder per class, without a list. No video is opened."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from dist_jax.errors import UserError, warn_once
from dist_jax.files import FoundFile, is_folder, is_utf8, list_entries, walk_files
from dist_jax.video.suffixes import has_video_suffix
from dist_jax.video.video_list import VideoSegment

_NOT_UTF8 = "with a name that is not UTF-8"


class SkippedFile(NamedTuple):
    """A file that is not a video of a class."""

    path: str  # relative to the folder
    reason: str  # its suffix, e.g. ".txt", or a few words


class ClassFolders(NamedTuple):
    """All files of a folder with one subfolder per class: each is in one of the two lists."""

    segments: list[VideoSegment]
    skipped: list[SkippedFile]


def read_folders(folder: str) -> ClassFolders:
    """Lists a folder with one subfolder per class. The label of a video is the name of its subfolder.

    A video is a file directly in the folder of its class, with one of `VIDEO_SUFFIXES`. Prints a warning for subfolders
    without videos and for names that are not UTF-8.

    Raises:
        UserError: the folder does not exist or has no videos in subfolders.
    """
    if not is_folder(folder):
        raise UserError(f"{folder}: no such folder; set the folder of the videos with --videos")
    segments, skipped = [], []
    for file in walk_files(folder, has_video_suffix):
        reason = _why_skipped(file)
        if reason:
            skipped.append(SkippedFile(file.path, reason))
        else:
            segments.append(VideoSegment(file.path, os.path.dirname(file.path)))
    if not segments:
        found = f"; it has other files: {count_reasons(skipped)}" if skipped else ""
        raise UserError(
            f"{folder}: no subfolder contains videos (.mp4, .avi, .mkv, ...){found}. Make one subfolder per class, or "
            "list the videos and their labels with --list"
        )
    _warn_of_missing_classes(folder, segments, skipped)
    not_utf8 = [file.path for file in skipped if file.reason == _NOT_UTF8]
    if not_utf8:
        warn_once(f"{folder}: skipped files whose names are not UTF-8: {', '.join(not_utf8)}; rename them")
    return ClassFolders(segments, skipped)


def count_reasons(skipped: Iterable[SkippedFile]) -> str:
    """For example "3 .txt, 1 hidden"; the most frequent reason first."""
    counts = Counter(file.reason for file in skipped)
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items(), key=lambda item: -item[1]))


def _why_skipped(file: FoundFile) -> str:
    """The reason why a file is not a video of a class; "" if it is."""
    parts = file.path.split("/")
    suffix = os.path.splitext(parts[-1])[1].lower()
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if not is_utf8(file.path):
        return _NOT_UTF8
    if file.problem:
        return file.problem
    if not has_video_suffix(parts[-1]):
        return suffix if re.fullmatch(r"\.[\w~+-]+", suffix) else "without suffix"
    return {1: "outside the class folders", 2: ""}.get(len(parts), "in a subfolder of a class folder")


def _warn_of_missing_classes(folder: str, segments: list[VideoSegment], skipped: Iterable[SkippedFile]) -> None:
    found = {segment.label for segment in segments}
    missing = [name for name in list_entries(folder, has_video_suffix).folders if name not in found and name[0] != "."]

    if missing:
        by_folder: dict[str, list[SkippedFile]] = {name: [] for name in missing}
        for file in skipped:
            by_folder.get(file.path.partition("/")[0], []).append(file)
        described = [f"{name} ({count_reasons(files) or 'empty'})" for name, files in by_folder.items()]
        warn_once(f"{folder}: subfolders without videos are not classes: {', '.join(described)}")
