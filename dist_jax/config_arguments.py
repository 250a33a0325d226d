"""The argument of a configuration file: --config=configs/ssv2_vitb.py:frames=32 calls get_config("frames=32").

The name of a text value may be left out: configs/zero_shot.py:ucf101 is configs/zero_shot.py:dataset=ucf101.
"""

from collections.abc import Mapping
from typing import Any

from dist_jax.errors import UserError


def parse(argument: str, choices: Mapping[str, tuple]) -> dict[str, Any]:
    """The value of every name in `choices`.

    Args:
        argument: NAME=VALUE pairs, separated by commas; may be empty. The name of a string value is optional.
        choices: name -> allowed values, integers or strings. The first one is the default.

    Returns:
        Name -> value, with the type that it has in `choices`.

    Raises:
        UserError: an unknown name or value, or a name that occurs twice. Lists the allowed values.
    """
    allowed = {f"{name}={value}": (name, value) for name, values in choices.items() for value in values}
    allowed |= {value: (name, value) for name, values in choices.items() for value in values if isinstance(value, str)}
    given: dict[str, Any] = {}
    for pair in argument.split(",") if argument else ():
        if pair not in allowed:
            raise UserError(f"configuration argument {pair!r}: {_expected(choices)}")
        name, value = allowed[pair]
        if name in given:
            raise UserError(f"configuration argument {argument!r}: {name} occurs twice; {_expected(choices)}")
        given[name] = value
    return {name: given.get(name, values[0]) for name, values in choices.items()}


def _expected(choices: Mapping[str, tuple]) -> str:
    names = (f"{name}={'|'.join(map(str, values))}" for name, values in choices.items())
    return f"must be {', '.join(names)}"
