"""Errors that a user can fix, exit statuses of programs, and warnings."""

import functools
import io
import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """An error that the user can fix. The message is one line: what is wrong, the values, what to do. No traceback."""


class DivergedError(UserError):
    """Scores are NaN or infinite. `problem` is the message without what to do."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; evaluate a checkpoint that has not diverged")
        self.problem = problem


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its type if the message is empty."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def one_line(text: str) -> str:
    """The text with escapes for line breaks, control characters and bytes that are not UTF-8. File names have them."""

    def escape(char: str) -> str:
        is_byte = "\udc80" <= char <= "\udcff"  # Python's form of a byte that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}" if is_byte else char.encode("unicode_escape").decode()

    return "".join(char if char.isprintable() else escape(char) for char in text)


def warn(message: str) -> None:
    """Prints one line on stderr, independent of the logging settings of libraries."""
    print(f"warning: {one_line(message)}", file=sys.stderr, flush=True)


@functools.cache
def warn_once(message: str) -> None:
    """Prints a warning, but not the same one twice."""
    warn(message)


def exit_with_message(main: Callable[[], int | None]) -> None:
    """Runs `main` and exits with its status. A UserError becomes one line on stderr and status 1.

    If the reader of stdout ends (`| head`), the command ends with status 141, as other programs do.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may have characters that the terminal has not
    try:
        status = main()
    except UserError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        status = 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes the rest at its exit
        status = 141  # 128 + SIGPIPE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
