"""Finds video files of a folder by name without suffix."""

import os

from dist_jax.errors import UserError
from dist_jax.files import is_folder, is_utf8, walk_files
from dist_jax.video.suffixes import VIDEO_SUFFIXES, has_video_suffix


class VideoFiles:
    """The video files of a folder and its subfolders, listed once, without hidden ones (.Trash-0/x.mp4).

    Of names that differ only in the suffix, the first in the order of `VIDEO_SUFFIXES` is used.

    Args:
        folder: folder of the videos.

    Raises:
        UserError: the folder does not exist.
    """

    def __init__(self, folder: str) -> None:
        if not is_folder(folder):
            raise UserError(f"{folder}: no such folder; set the folder of the videos with --videos")
        self._paths: dict[str, str] = {}  # by path without suffix
        self._paths_by_name: dict[str, list[str]] = {}  # by name without suffix
        found = [file.path for file in walk_files(folder, has_video_suffix) if not file.problem]
        for path in sorted(filter(_is_video, found), key=_preference):
            stem = os.path.splitext(path)[0]
            if stem not in self._paths:
                self._paths[stem] = path
                self._paths_by_name.setdefault(os.path.basename(stem), []).append(path)

    def find(self, name: str) -> str | None:
        """Path, relative to the folder, of `NAME` or `FOLDER/NAME` (without suffix); None if it does not exist.

        For NAME all subfolders are searched, and the first match is returned. FOLDER/NAME may be in another subfolder
        only if that is the only file of this name: files of one name in several subfolders are different videos.
        """
        paths = self._paths_by_name.get(os.path.basename(name), [])
        is_in_any_folder = len(paths) == 1 or (paths and "/" not in name)
        return self._paths.get(name) or (paths[0] if is_in_any_folder else None)


def _is_video(path: str) -> bool:
    is_hidden = any(part.startswith(".") for part in path.split("/"))
    return has_video_suffix(path) and is_utf8(path) and not is_hidden


def _preference(path: str) -> tuple[str, int, str]:
    """Sort key: folder, then suffix, then name."""
    suffix = os.path.splitext(path)[1].lower()
    return os.path.dirname(path), VIDEO_SUFFIXES.index(suffix), path
