"""Finds video files of a folder by name without suffix."""

import os

import tensorflow as tf

from dist_jax.errors import UserError


class VideoFiles:
    """The video files of a folder and its subfolders, listed once.

    Args:
        folder: folder of the videos.
        suffixes: suffixes of video files, in lower case.

    Raises:
        UserError: the folder does not exist.
    """

    def __init__(self, folder: str, suffixes: tuple[str, ...]) -> None:
        if not tf.io.gfile.isdir(folder):
            raise UserError(f"{folder}: no such folder; set the folder of the videos with --videos")
        self._paths: dict[str, str] = {}  # by path without suffix
        self._paths_by_name: dict[str, list[str]] = {}  # by name without suffix
        for parent, _, names in sorted(tf.io.gfile.walk(folder)):
            for name in sorted(names):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in suffixes:
                    path = os.path.relpath(os.path.join(parent, name), folder)
                    self._paths[os.path.splitext(path)[0]] = path
                    self._paths_by_name.setdefault(stem, []).append(path)

    def find(self, name: str) -> str | None:
        """Path, relative to the folder, of `NAME` or `FOLDER/NAME` (without suffix); None if it does not exist.

        For NAME all subfolders are searched, and the first match is returned. FOLDER/NAME may be in another subfolder
        only if that is the only file of this name: files of one name in several subfolders are different videos.
        """
        paths = self._paths_by_name.get(os.path.basename(name), [])
        is_in_any_folder = len(paths) == 1 or (paths and "/" not in name)
        return self._paths.get(name) or (paths[0] if is_in_any_folder else None)
