"""CLIP's tokenizer: texts -> token ids, as CLIP was trained with them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dist_jax import hub
from dist_jax.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

# A directory has a tokenizer if it has all files of one of these sets.
FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
PATTERNS = (*(name for names in FILES for name in names), "tokenizer_config.json", "special_tokens_map.json")


def files(directory: Path) -> list[Path]:
    """The tokenizer's files in a directory, for copying; empty if it has no tokenizer."""
    if not any(all((directory / name).is_file() for name in names) for names in FILES):
        return []
    return [directory / name for name in PATTERNS if (directory / name).is_file()]


def beside(file: Path) -> str | None:
    """The directory of `file` if it has a tokenizer's files."""
    return str(file.parent) if files(file.parent) else None


def locate(source: str) -> Path:
    """The directory of a tokenizer's files, from its name or a Hugging Face hub id; UserError if they are not there."""
    directory = Path(source).expanduser()
    if not directory.is_dir() and hub.is_id(source):
        directory = hub.download(source, PATTERNS)
    if not files(directory):
        wanted = " or ".join(" and ".join(names) for names in FILES)
        raise UserError(f"{source}: no tokenizer there ({wanted}); copy these files of the CLIP model into it")
    return directory


def load(source: str) -> "CLIPTokenizer":
    """The tokenizer of a directory (tokenizer.json, or vocab.json and merges.txt) or of a Hugging Face hub id."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it would tell everyone that PyTorch is missing
    from transformers import CLIPTokenizer  # takes seconds, and most programs that import this never need it

    directory = locate(source)
    try:
        return CLIPTokenizer.from_pretrained(str(directory), local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception for a file that it cannot read
        raise UserError(
            f"{source}: its tokenizer files cannot be read ({first_line(error)}); copy the model's own"
        ) from error


def encode(tokenizer: "CLIPTokenizer", texts: Sequence[str], context: int) -> np.ndarray:
    """Token ids of texts by CLIP's rules: start, tokens, end, padding.

    A text of more than `context` tokens loses its last ones; the end token stays. What the padding is does not matter:
    the text tower is causal and is read at the end token.

    Args:
        tokenizer: from `load`.
        texts: K texts.
        context: tokens of every row; at least 2, for start and end.

    Returns:
        int32 [K, context].
    """
    wrong = [text for text in texts if not isinstance(text, str)]
    if isinstance(texts, str) or wrong:
        raise UserError(f"texts must be a list of strings, not {texts if isinstance(texts, str) else wrong[0]!r}")
    if context < 2:
        raise UserError(f"a context of {context} tokens has no room for a start and an end token")
    if not texts:
        return np.zeros((0, context), np.int32)
    rows = tokenizer(list(texts), padding="max_length", truncation=True, max_length=context)["input_ids"]
    return np.asarray(rows, np.int32)  # [K, context]
