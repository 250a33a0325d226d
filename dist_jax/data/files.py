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
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error


def size_and_mtime(path: str) -> tuple[int, int]:
    """Bytes of a file and its time of change in nanoseconds; UserError if it is missing or cannot be asked."""
    try:
        if "://" not in path:  # TensorFlow's own knows local times to the second only
            local = os.stat(path)
            return local.st_size, local.st_mtime_ns
        stat = tf.io.gfile.stat(path)
    except (FileNotFoundError, tf.errors.NotFoundError) as error:
        raise UserError(f"{path} is missing") from error
    except (OSError, tf.errors.OpError) as error:
        raise unreadable(path, error) from error
    return int(stat.length), int(stat.mtime_nsec)


def unreadable(path: str, error: Exception) -> UserError:
    """What to raise where the file system refuses a file, with its reason."""
    reason = getattr(error, "message", None) or getattr(error, "strerror", None) or error
    return UserError(f"{path}: cannot be read ({reason})")


def write_text(path: str, text: str) -> None:
    """Writes a whole file or none, under a temporary name, which is then renamed; UserError if it cannot be written."""
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        with tf.io.gfile.GFile(partial, "w") as file:
            file.write(text)
        tf.io.gfile.rename(partial, path, overwrite=True)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"{path}: cannot be written ({getattr(error, 'message', error)})") from error


def make_folder(path: str) -> None:
    """Makes a folder and those above it, where they are missing; UserError if that cannot be."""
    try:
        tf.io.gfile.makedirs(path)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"{path}: this folder cannot be made ({getattr(error, 'message', error)})") from error


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
