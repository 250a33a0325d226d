"""Command line of the programs that take a configuration. Every error is one line. `~` is the home folder."""

import ml_collections
from absl import flags

from dist_jax import config as settings
from dist_jax.errors import UserError
from dist_jax.files import user_path


def parse_flags(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Parses flags with absl, which also runs the configuration file.

    Args:
        values: the defined flags, with `config` among them.
        argv: sys.argv; ml_collections reads the overrides from there.

    Returns:
        The program name and the arguments that are not flags.

    Raises:
        UserError: unknown flag or field, invalid value, or an error in the configuration file.
    """
    settings.check_overrides(argv)
    try:
        return values([*argv[:1], *map(_expand_home, argv[1:])])
    except flags.Error as error:
        raise UserError(_one_line(error)) from error
    except UserError:
        raise
    except Exception as error:  # a configuration file may raise any exception
        raise UserError(f"configuration: {_one_line(error)}") from error


def read_config(values: flags.FlagValues, usage: str) -> ml_collections.ConfigDict:
    """The validated configuration of --config with its overrides. Raises UserError if it is missing or invalid."""
    if not values["config"].present:
        raise UserError(f"--config is missing; for example {usage}")
    try:
        getattr(values.config, "items", None)  # ml_collections reports an unreadable file at the first access
    except OSError as error:
        raise UserError(f"--config: {_one_line(error)}") from error
    settings.validate(values.config)
    for name in settings.field_names(values.config):
        if isinstance(value := values.config[name], str):  # a configuration file may contain ~
            values.config.update_from_flattened_dict({name: user_path(value)})
    return values.config


def _expand_home(argument: str) -> str:
    """The argument --NAME=VALUE or VALUE with `~` at the start of the value replaced by the home folder."""
    name, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    return name + equals + user_path(value)


def _one_line(error: Exception) -> str:
    while error.args and isinstance(error.args[0], Exception):  # ml_collections wraps exceptions
        error = error.args[0]
    is_readable = isinstance(error, (flags.Error, LookupError, OSError))
    text = f"{type(error).__name__}: {error}"
    if is_readable and error.args and isinstance(error.args[-1], str):
        text = error.args[-1]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    hints = [line for line in lines if line.startswith("Did you mean")]
    if hints:  # the lines before it print the whole configuration
        return f"no such field. {hints[0]}"
    if "get_config() takes 0 positional arguments" in text:
        return "--config: this file has no argument (FILE.py:ARGUMENT); --config.NAME=VALUE changes a setting"
    if "Traceback (most recent call last):" in text:
        lines = [*lines[:1], lines[-1]]
    return "; ".join(lines)
