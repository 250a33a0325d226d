"""Files of class names: UTF-8 text, one name per line, in the order of the class numbers."""

from collections.abc import Sequence
from pathlib import Path

from dist_jax.errors import UserError


def parse(text: str, source: str) -> list[str]:
    """The K names in the text of the file `source`.

    Raises:
        UserError: no names, an empty line or a duplicate name.
    """
    names = [line.strip() for line in text.splitlines()]
    if not names:
        raise UserError(f"{source}: no class names in this file; write one per line")
    line_numbers: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise UserError(f"{source}: line {number} is empty; every line must be a class name")
        if name in line_numbers:
            raise UserError(f"{source}: lines {line_numbers[name]} and {number} are both {name!r}; remove one")
        line_numbers[name] = number
    return names


def split(text: str, source: str) -> list[str]:
    """The names in a text, separated by commas or line breaks. Lines at the end of the text may be empty.

    Raises:
        UserError: an empty or duplicate name.
    """
    names = [name.strip() for line in text.strip().splitlines() for name in line.split(",")]
    if not names or "" in names or len(set(names)) < len(names):
        raise UserError(f"{source} {text!r}: names must be unique and not empty")
    return names


def read(file: Path) -> list[str]:
    """Reads the K names in a local file. Raises UserError if it cannot be read or is invalid."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: class names cannot be read ({error})") from error
    return parse(text, str(file))


def to_text(names: Sequence[str]) -> str:
    """The content of a file of these names. Raises UserError if `parse` would not return the same names."""
    invalid = [name for name in names if name.splitlines() != [name.strip()] or not name.strip()]
    if invalid:
        raise UserError(
            f"class name {invalid[0]!r} is empty, starts or ends with a space or has a line break; rename the class"
        )
    text = "".join(f"{name}\n" for name in names)
    if names:
        parse(text, "the class names")
    return text
