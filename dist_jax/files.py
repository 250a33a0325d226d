"""Files and folders, local or remote (gs://...).

Local paths use the standard library. Remote paths use TensorFlow's file systems (gs, hdfs, ...). TensorFlow is imported
when the first remote path is used, so that commands on local files start fast.
"""

import os
import uuid
from typing import IO, Any

from dist_jax.errors import UserError


def is_remote(path: str) -> bool:
    """Whether `path` is on a remote file system, e.g. gs://bucket/file."""
    return "://" in path


def open_binary(path: str) -> IO[bytes]:
    """Opens a file for reading bytes. Raises FileNotFoundError or another error of the file system."""
    if not is_remote(path):
        return open(path, "rb")
    if not _gfile().exists(path):
        raise FileNotFoundError(path)
    return _gfile().GFile(path, "rb")


def exists(path: str) -> bool:
    """Whether a file or folder exists."""
    return _gfile().exists(path) if is_remote(path) else os.path.exists(path)


def is_folder(path: str) -> bool:
    """Whether `path` is a folder."""
    return _gfile().isdir(path) if is_remote(path) else os.path.isdir(path)


def list_folder(path: str) -> list[str]:
    """Sorted names in a folder, without hidden files."""
    names = _gfile().listdir(path) if is_remote(path) else os.listdir(path)
    return sorted(name.rstrip("/") for name in names if not name.startswith("."))  # gs:// appends a slash to folders


def read_text(path: str) -> str:
    """Returns the UTF-8 text of a file. Raises UserError if it cannot be read."""
    try:
        with open_binary(path) as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except Exception as error:  # every file system has its own exception classes
        raise unreadable(path, error) from error


def size_and_mtime(path: str) -> tuple[int, int]:
    """Returns a file's size in bytes and its modification time in nanoseconds. Raises UserError if it is missing."""
    try:
        if not is_remote(path):  # TensorFlow reports local times in whole seconds only
            local = os.stat(path)
            return local.st_size, local.st_mtime_ns
        stat = _gfile().stat(path)
    except Exception as error:  # every file system has its own exception classes
        if isinstance(error, FileNotFoundError) or not exists(path):
            raise UserError(f"{path} is missing") from error
        raise unreadable(path, error) from error
    return int(stat.length), int(stat.mtime_nsec)


def write_text(path: str, text: str) -> None:
    """Writes a file atomically, through a temporary name. Raises UserError if it cannot be written."""
    temporary = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        if is_remote(path):
            with _gfile().GFile(temporary, "w") as file:
                file.write(text)
            _gfile().rename(temporary, path, overwrite=True)
        else:
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                file.write(text)
            os.replace(temporary, path)
    except Exception as error:  # every file system has its own exception classes
        raise UserError(f"{path}: cannot be written ({_reason(error)})") from error


def make_folder(path: str) -> None:
    """Creates a folder and its parents. Raises UserError if it cannot be created."""
    try:
        _gfile().makedirs(path) if is_remote(path) else os.makedirs(path, exist_ok=True)
    except Exception as error:  # every file system has its own exception classes
        raise UserError(f"{path}: cannot create this folder ({_reason(error)})") from error


def unreadable(path: str, error: Exception) -> UserError:
    """The UserError for a file that cannot be read, with the file system's reason."""
    return UserError(f"{path}: cannot be read ({_reason(error)})")


def _reason(error: Exception) -> object:
    return getattr(error, "message", None) or getattr(error, "strerror", None) or error


def _gfile() -> Any:
    import tensorflow as tf

    return tf.io.gfile
