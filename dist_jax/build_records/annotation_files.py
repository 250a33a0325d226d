"""Finds published annotation files and parses their values."""

import json
import os
import re
from typing import Any

from dist_jax.errors import UserError
from dist_jax.files import is_folder, list_names, read_text


def find_file(folder: str, pattern: str) -> str:
    """Path of the only file of the folder that matches `pattern`. Raises UserError for none or several."""
    names = list_names(folder) if is_folder(folder) else []
    matches = [name for name in names if re.fullmatch(pattern, name, re.IGNORECASE)]
    if len(matches) != 1:
        expected = pattern.replace("\\", "")
        raise UserError(f"{folder}: expected one file {expected}; it has {', '.join(matches or names) or 'none'}")
    return os.path.join(folder, matches[0])


def read_json(path: str) -> Any:
    """The content of a JSON file. Raises UserError if it is not valid JSON."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON ({error})") from error


def parse_number(text: str, location: str) -> int:
    """The class number or frame number in `text`. Raises UserError with `location` for any other text."""
    if not text.strip().isdecimal():
        raise UserError(f"{location}: {text!r} is not an integer from 0")
    return int(text)
