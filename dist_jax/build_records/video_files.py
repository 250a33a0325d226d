"""The files of a folder of videos, found by name without the suffix."""

import os

import tensorflow as tf

from dist_jax.errors import UserError


class VideoFiles:
    """The files of a folder and its folders, found by their name without the suffix."""

    def __init__(self, folder: str, suffixes: tuple[str, ...]) -> None:
        """Lists the folder once; UserError if it is not there."""
        if not tf.io.gfile.isdir(folder):
            raise UserError(f"{folder}: there is no such folder; --videos names it")
        self._paths: dict[str, str] = {}  # by the path without suffix
        self._named: dict[str, list[str]] = {}  # paths by the name without suffix
        for parent, _, names in sorted(tf.io.gfile.walk(folder)):
            for name in sorted(names):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in suffixes:
                    path = os.path.relpath(os.path.join(parent, name), folder)
                    self._paths[os.path.splitext(path)[0]] = path
                    self._named.setdefault(stem, []).append(path)

    def find(self, name: str) -> str | None:
        """The path, in the folder, of `NAME` or `FOLDER/NAME`, both without suffix; None if it is not there.

        NAME alone is looked for in all folders, and the first one's is taken. FOLDER/NAME may be in another folder if
        there is only one file of that name: in several folders they are different videos.
        """
        named = self._named.get(os.path.basename(name), [])
        anywhere = len(named) == 1 or (named and "/" not in name)
        return self._paths.get(name) or (named[0] if anywhere else None)
