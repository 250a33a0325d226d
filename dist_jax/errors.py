"""The one kind of error that a user can mend, and how a program ends on it."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """What is wrong, with the values, and what to do about it: one line, shown without a traceback."""


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
