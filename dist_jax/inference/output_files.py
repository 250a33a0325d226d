"""Output files of commands: checks before long work, and writing."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dist_jax import files
from dist_jax.errors import UserError

STDOUT = "-"  # as the name of a file


def check_output(option: str, path: str) -> None:
    """Raises UserError if the folder of an output file is missing. "-" and remote paths are not checked."""
    folder = os.path.dirname(path) or "."
    if path == STDOUT or files.is_remote(path):
        return
    if not os.path.isdir(folder):
        raise UserError(f"{option} {path}: No such file or directory: {folder}; create this folder first")
    if os.path.isdir(path):
        raise UserError(f"{option} {path}: is a folder; write the name of a file")


def check_picture(option: str, path: str) -> None:
    """Raises UserError if matplotlib cannot write the format of `path`, or see `check_output`."""
    from matplotlib.backend_bases import FigureCanvasBase

    check_output(option, path)
    suffix, formats = Path(path).suffix[1:].lower(), FigureCanvasBase.get_supported_filetypes()
    if suffix and suffix not in formats:  # without a suffix, matplotlib writes PNG
        raise UserError(f"{option} {path}: unknown format; use one of {', '.join(sorted(formats))}")


def write_output(option: str, path: str, text: str) -> None:
    """Writes a file atomically, and to pipes, devices, links and "-" (standard output) directly.

    Raises:
        UserError: it cannot be written.
    """
    is_replaceable = not os.path.lexists(path) or (os.path.isfile(path) and not os.path.islink(path))
    if path == STDOUT or not is_replaceable:
        with open_output(option, path) as file:
            file.write(text)
        return
    try:
        files.write_text(path, text)
    except UserError as error:
        raise UserError(f"{option} {error}") from error


@contextlib.contextmanager
def open_output(option: str, path: str) -> Iterator[IO[str]]:
    """Opens an output file; "-": standard output.

    Raises:
        UserError: the file cannot be opened or written. Other errors in the context are raised unchanged.
    """
    if path == STDOUT:
        yield sys.stdout
        return
    try:
        raw = _RawOutput(path, "w")
    except OSError as error:
        raise UserError(f"{option} {path}: {error}") from error
    raw.option = option
    with io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", newline="") as file:
        yield file


class _RawOutput(io.FileIO):
    """A file that raises a UserError with the name of the option if it cannot be written."""

    option = ""

    def write(self, data: Any) -> int:
        """Returns the number of bytes written."""
        try:
            return super().write(data)
        except OSError as error:
            raise UserError(f"{self.option} {self.name}: {error}") from error
