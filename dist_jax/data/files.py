"""Files, local or remote (gs://...): small texts, and a folder of videos."""

import os
import uuid

import tensorflow as tf

from dist_jax.errors import UserError


def read_text(path: str) -> str:
    """The UTF-8 text of a file; UserError if it cannot be read."""
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read().decode("utf-8-sig")
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'message', error)})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error


def write_text(path: str, text: str) -> None:
    """Writes a whole file or none: under a temporary name, which is then renamed."""
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    with tf.io.gfile.GFile(partial, "w") as file:
        file.write(text)
    tf.io.gfile.rename(partial, path, overwrite=True)


class VideoFiles:
    """The files of a folder and its folders, found by their name without the suffix."""

    def __init__(self, folder: str, suffixes: tuple[str, ...]) -> None:
        """Lists the folder once; UserError if it is not there."""
        if not tf.io.gfile.isdir(folder):
            raise UserError(f"{folder}: there is no such folder; --videos names it")
        self._paths: dict[str, str] = {}
        for parent, _, names in sorted(tf.io.gfile.walk(folder)):
            for name in sorted(names):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in suffixes:
                    path = os.path.relpath(os.path.join(parent, name), folder)
                    self._paths.setdefault(stem, path)
                    self._paths[os.path.splitext(path)[0]] = path

    def find(self, name: str) -> str | None:
        """The path, in the folder, of `FOLDER/NAME` or `NAME`, both without suffix; None if it is not there."""
        return self._paths.get(name) or self._paths.get(os.path.basename(name))
