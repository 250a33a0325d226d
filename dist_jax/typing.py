"""Type aliases."""

from typing import Any

PyTree = Any  # nested dicts, lists, tuples and dataclasses of arrays
