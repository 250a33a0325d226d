"""The command line of the programs that take a configuration: every mistake in it is told in one line."""

import ml_collections
from absl import flags

from dist_jax import config as settings
from dist_jax.errors import UserError


def parse_flags(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """absl's parsing, which runs the configuration file as well.

    Args:
        values: the defined flags; `config` is one of them.
        argv: program name and arguments; sys.argv, because ml_collections looks for overrides there.

    Returns:
        The program name and the arguments that are no flags.

    Raises:
        UserError: for a flag or field that does not exist, a value that is none, or a file that cannot be run.
    """
    settings.check_overrides(argv)
    try:
        return values(argv)
    except flags.Error as error:
        raise UserError(_one_line(error)) from error
    except UserError:
        raise
    except Exception as error:  # whatever the user's own file raises
        raise UserError(f"configuration: {_one_line(error)}") from error


def read_config(values: flags.FlagValues, usage: str) -> ml_collections.ConfigDict:
    """The configuration of --config with its overrides, validated; UserError if there is none or it cannot be."""
    if not values["config"].present:
        raise UserError(f"--config is missing; for example {usage}")
    try:
        getattr(values.config, "items", None)  # a file that could not be opened says so when it is first looked at
    except OSError as error:
        raise UserError(f"--config: {_one_line(error)}") from error
    settings.validate(values.config)
    return values.config


def _one_line(error: Exception) -> str:
    while error.args and isinstance(error.args[0], Exception):  # ml_collections wraps what it raises
        error = error.args[0]
    known = isinstance(error, (flags.Error, LookupError, OSError)) and error.args and isinstance(error.args[-1], str)
    text = error.args[-1] if known else f"{type(error).__name__}: {error}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    hints = [line for line in lines if line.startswith("Did you mean")]
    if hints:  # what stands before it is the whole configuration
        return f"no such field. {hints[0]}"
    if "Traceback (most recent call last):" in text:
        lines = [*lines[:1], lines[-1]]
    return "; ".join(lines)
