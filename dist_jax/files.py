"""Files and folders, local or remote (gs://...).

Local paths use the standard library. Remote paths use TensorFlow's file systems (gs, hdfs, ...). TensorFlow is imported
when the first remote path is used, so that commands on local files start fast.
"""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from dist_jax.errors import UserError, warn_once


class FolderEntries(NamedTuple):
    """Sorted names in a folder, with hidden ones. A link has the kind of its target."""

    folders: list[str]
    files: list[str]  # also links without a target
    others: list[str]  # pipes, sockets, devices


class FoundFile(NamedTuple):
    """A file in a folder or in its subfolders."""

    path: str  # relative to the folder
    problem: str = ""  # why it must not be opened


def user_path(path: str) -> str:
    """A path from the command line or from a configuration, with `~` replaced by the home folder.

    Raises:
        UserError: the path is not UTF-8, which TensorFlow and the formats of records and plans require.
    """
    path = os.path.expanduser(path)
    if not is_utf8(path):
        raise UserError(f"{path}: this path is not UTF-8; rename the file or the folder")
    return path


def is_utf8(name: str) -> bool:
    """Whether a file name is UTF-8. Python keeps other bytes as surrogates, which cannot be written to a text file."""
    return not re.search("[\ud800-\udfff]", name)


def is_remote(path: str) -> bool:
    """Whether `path` is on a remote file system, e.g. gs://bucket/file. An existing local file never is."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None and not os.path.exists(path)


def join(folder: str, path: str) -> str:
    """Joins `folder` and `path`. Returns an absolute or remote `path` unchanged."""
    return path if is_remote(path) else os.path.join(folder, path)


def open_binary(path: str) -> IO[bytes]:
    """Opens a file for reading bytes. Raises FileNotFoundError or another error of the file system."""
    if not is_remote(path):
        return open(path, "rb")
    if not _gfile().exists(path):
        raise FileNotFoundError(path)
    return _gfile().GFile(path, "rb")


def exists(path: str) -> bool:
    """Whether a file or folder exists. Raises UserError if the remote file system does not answer or is unknown."""
    try:
        return _gfile().exists(path) if is_remote(path) else os.path.exists(path)
    except Exception as error:  # every file system has its own exception classes
        raise unreadable(path, error) from error


def is_folder(path: str) -> bool:
    """Whether `path` is a folder."""
    return _gfile().isdir(path) if is_remote(path) else os.path.isdir(path)


def list_names(path: str) -> list[str]:
    """Sorted names in a folder, with hidden ones, without names that are not UTF-8. Raises UserError if unreadable."""
    try:
        names = _gfile().listdir(path) if is_remote(path) else os.listdir(path or ".")
    except Exception as error:  # every file system has its own exception classes
        raise unreadable(path, error) from error
    return sorted(name.rstrip("/") for name in names if is_utf8(name))  # gs:// appends a slash to folders


def list_entries(path: str, is_file: Callable[[str], bool] = lambda name: False) -> FolderEntries:
    """Lists a folder by kind. Names may contain bytes that are not UTF-8, see `is_utf8`.

    Args:
        path: a folder.
        is_file: whether a name is certainly a file's. Remote file systems need a request per name to see its kind.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        if is_remote(path):
            return _list_remote_entries(path, is_file)
        kinds = FolderEntries([], [], [])
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                _names_of_kind(kinds, entry).append(entry.name)
        return kinds
    except Exception as error:  # every file system has its own exception classes
        raise unreadable(path, error) from error


def walk_files(
    folder: str, is_file: Callable[[str], bool] = lambda name: False, parents: Sequence[str] = ()
) -> Iterator[FoundFile]:
    """Everything in a folder and its subfolders that is no folder, with hidden files. See `list_entries`.

    Links to folders are followed. A link to a folder that contains the link is reported with a problem instead. A
    subfolder that cannot be read (lost+found) is left out with a warning.

    Args:
        folder: the folder.
        is_file: see `list_entries`.
        parents: real paths of the folders above `folder`.

    Raises:
        UserError: `folder` cannot be read.
    """
    entries = list_entries(folder, is_file)
    yield from map(FoundFile, entries.files)
    yield from (FoundFile(name, "pipe or device") for name in entries.others)
    parents = [*parents, os.path.realpath(folder)]
    for name in entries.folders:
        path = os.path.join(folder, name)
        if os.path.islink(path) and any(_is_inside(parent, os.path.realpath(path)) for parent in parents):
            yield FoundFile(name, "link to a folder that contains it")
        else:
            yield from (
                file._replace(path=os.path.join(name, file.path)) for file in _walk_subfolder(path, is_file, parents)
            )


def _walk_subfolder(path: str, is_file: Callable[[str], bool], parents: Sequence[str]) -> Iterator[FoundFile]:
    """As `walk_files`. A folder that cannot be read is a warning."""
    found = walk_files(path, is_file, parents)
    try:
        first = next(found, None)  # lists the folder; the subfolders have their own warnings
    except UserError as error:
        warn_once(f"skipped a folder: {error}")
        return
    if first:
        yield first
    yield from found


def read_text(path: str) -> str:
    """Returns the UTF-8 text of a file. Raises UserError if it cannot be read or is not UTF-8."""
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text ({error.reason}); save the file as UTF-8") from error
    if "\0" in text:
        raise UserError(f"{path}: has zero bytes: UTF-16 or binary, not UTF-8 text; save the file as UTF-8")
    return text


def read_bytes(path: str) -> bytes:
    """Returns the contents of a file. Raises UserError if it cannot be read."""
    try:
        with open_binary(path) as file:
            return file.read()
    except Exception as error:  # every file system has its own exception classes
        raise unreadable(path, error) from error


def list_matches(pattern: str) -> list[str]:
    """Sorted files and folders that match a glob. Raises UserError if the file system cannot be read."""
    try:
        return sorted(_gfile().glob(pattern))
    except Exception as error:  # every file system has its own exception classes
        raise unreadable(pattern, error) from error


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
    """Writes a UTF-8 file as `write_bytes`. Raises UserError if it cannot be written or the text is not UTF-8."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error
    write_bytes(path, data)


def write_bytes(path: str, data: bytes) -> None:
    """Writes a file atomically, through a temporary name PATH.*.partial. Raises UserError if it cannot be written."""
    temporary = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        if is_remote(path):
            with _gfile().GFile(temporary, "wb") as file:
                file.write(data)
            _gfile().rename(temporary, path, overwrite=True)
        else:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # else a power failure can leave an empty file with the new name
            os.replace(temporary, path)
    except Exception as error:  # every file system has its own exception classes
        with contextlib.suppress(UserError):
            remove(temporary)  # it would take space on a full disk
        raise UserError(f"{path}: cannot be written ({_reason(error)})") from error


def remove(path: str) -> None:
    """Deletes a file if it exists. Raises UserError if it cannot be deleted."""
    try:
        if not is_remote(path):
            Path(path).unlink(missing_ok=True)
        elif _gfile().exists(path):
            _gfile().remove(path)
    except Exception as error:  # every file system has its own exception classes
        raise UserError(f"{path}: cannot be deleted ({_reason(error)})") from error


def make_folder(path: str) -> None:
    """Creates a folder and its parents. Raises UserError if it cannot be created."""
    try:
        _gfile().makedirs(path) if is_remote(path) else os.makedirs(path, exist_ok=True)
    except Exception as error:  # every file system has its own exception classes
        raise UserError(f"{path}: cannot create this folder ({_reason(error)})") from error


def check_new_folder(folder: Path) -> None:
    """Raises UserError if `folder` exists and is not an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty; use another --output")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary local folder. It becomes `folder` when the block ends, and is deleted if the block fails.

    Raises:
        UserError: `folder` exists and is not empty, or cannot be created.
    """
    check_new_folder(folder)
    folder = Path(os.path.abspath(folder))  # "." has no name
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    make_folder(str(unfinished))
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    if folder.exists():
        folder.rmdir()
    os.replace(unfinished, folder)


def unreadable(path: str, error: Exception) -> UserError:
    """The UserError for a file that cannot be read, with the file system's reason."""
    return UserError(f"{path}: cannot be read ({_reason(error)})")


def _names_of_kind(kinds: FolderEntries, entry: os.DirEntry[str]) -> list[str]:
    """The list in `kinds` for a folder entry."""
    if entry.is_symlink():  # os.path accepts links without a target and links to themselves
        is_folder, is_file = os.path.isdir(entry.path), os.path.isfile(entry.path) or not os.path.exists(entry.path)
    else:
        is_folder, is_file = entry.is_dir(), entry.is_file()
    return kinds.folders if is_folder else kinds.files if is_file else kinds.others


def _is_inside(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def _list_remote_entries(path: str, is_file: Callable[[str], bool]) -> FolderEntries:
    names = _gfile().listdir(path)
    folders = {
        name for name in names if name.endswith("/") or (not is_file(name) and _gfile().isdir(os.path.join(path, name)))
    }  # gs:// appends a slash to folders
    return FolderEntries(sorted(name.rstrip("/") for name in folders), sorted(set(names) - folders), [])


def _reason(error: Exception) -> object:
    return getattr(error, "message", None) or getattr(error, "strerror", None) or error


def _gfile() -> Any:
    import tensorflow as tf

    return tf.io.gfile
