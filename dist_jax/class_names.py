"""Files of class names: UTF-8 text, one name a line, in the order of the classes' numbers."""

from collections.abc import Sequence
from pathlib import Path

from dist_jax.errors import UserError


def parse(text: str, source: str) -> list[str]:
    """The K names in the text of a file called `source`; UserError if a line is empty, or a name there twice."""
    names = [line.strip() for line in text.splitlines()]
    if not names:
        raise UserError(f"{source}: holds no class names; write one a line")
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise UserError(f"{source}: line {number} is empty; every line is a class, numbered from 0")
        if name in first:
            raise UserError(f"{source}: lines {first[name]} and {number} are both {name!r}")
        first[name] = number
    return names


def read(file: Path) -> list[str]:
    """The K names in a file of this machine; UserError if it cannot be read, else see `parse`."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no file of class names, one a line ({error})") from error
    return parse(text, str(file))


def to_text(names: Sequence[str]) -> str:
    """What a file of these names holds; UserError if `parse` would not find them all in it again."""
    broken = [name for name in names if name.splitlines() != [name.strip()] or not name.strip()]
    if broken:
        raise UserError(
            f"class name {broken[0]!r} is empty, begins or ends with a space or has a line break: no line of a file "
            "can hold it"
        )
    text = "".join(f"{name}\n" for name in names)
    if names:
        parse(text, "the class names")
    return text
