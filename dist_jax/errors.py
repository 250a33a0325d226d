"""Errors that a user can fix, exit statuses of programs, and warnings."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """An error that the user can fix. The message is one line: what is wrong, the values, what to do. No traceback."""


def first_line(error: Exception) -> str:
    """The first line of an error's message; the name of its type if the message is empty."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def warn(message: str) -> None:
    """Prints one line on stderr, independent of the logging settings of libraries."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def exit_with_message(main: Callable[[], int | None]) -> None:
    """Runs `main` and exits with its status. A UserError becomes one line on stderr and status 1."""
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
