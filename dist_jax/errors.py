"""The one kind of error that a user can mend, how a program ends on it, and warnings, which end nothing."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """What is wrong, with the values, and what to do about it: one line, shown without a traceback."""


def first_line(error: Exception) -> str:
    """The beginning of a library's message, for a line of one's own; the error's kind where there is no message."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def warn(message: str) -> None:
    """Prints one line on stderr at once, whatever the libraries' logging is set to show."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def exit_with_message(main: Callable[[], int | None]) -> None:
    """Runs `main` and exits with its status; a UserError becomes one line on stderr and status 1."""
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
