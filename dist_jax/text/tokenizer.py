"""Tokenizer files, and CLIP's tokenizer: texts -> token ids, as in CLIP's training."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dist_jax import hub
from dist_jax.errors import UserError, first_line, warn_once

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A directory has a tokenizer if it contains all files of one of these sets.
FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
PATTERNS = (*(name for names in FILES for name in names), "tokenizer_config.json", "special_tokens_map.json")


def files(directory: Path) -> list[Path]:
    """All tokenizer files of a directory, for copying; empty if it has no tokenizer."""
    if not any(all((directory / name).is_file() for name in names) for names in FILES):
        return []
    return [directory / name for name in PATTERNS if (directory / name).is_file()]


def find_next_to(file: Path) -> str | None:
    """The directory of `file` if it has tokenizer files, else None."""
    return str(file.parent) if files(file.parent) else None


def locate(source: str) -> Path:
    """The directory of the tokenizer files of a directory or Hugging Face hub id.

    Raises:
        UserError: no tokenizer files.
    """
    directory = Path(source).expanduser()
    if not directory.is_dir() and hub.is_id(source):
        directory = hub.download(source, PATTERNS)
    if not files(directory):
        expected = " or ".join(" and ".join(names) for names in FILES)
        raise UserError(f"{source}: no tokenizer files ({expected}); copy them from the model")
    return directory


def load(source: str) -> "PreTrainedTokenizerBase":
    """Loads CLIP's tokenizer of a directory (tokenizer.json, or vocab.json and merges.txt) or a Hugging Face hub id.

    Raises:
        UserError: the files are missing or damaged.
    """
    return _load(source, "CLIPTokenizer")


def load_fast(source: str) -> "PreTrainedTokenizerBase":
    """Loads the tokenizer that tokenizer.json describes, of any model. Arguments and errors as in `load`."""
    if not (locate(source) / "tokenizer.json").is_file():
        raise UserError(f"{source}: tokenizer.json is missing; copy it from the model")
    return _load(source, "PreTrainedTokenizerFast")


def read_config(source: str) -> dict:
    """The content of tokenizer_config.json; {} if there is none. Errors as in `locate`, and damaged JSON."""
    file = locate(source) / "tokenizer_config.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise UserError(f"{file}: cannot be read as JSON ({error}); copy it from the model") from error


def _load(source: str, class_name: str) -> "PreTrainedTokenizerBase":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # no warning that PyTorch is missing
    import transformers  # slow import that most programs do not need

    directory = locate(source)
    try:
        return getattr(transformers, class_name).from_pretrained(str(directory), local_files_only=True)
    except Exception as error:  # the tokenizers library raises Exception for damaged files
        raise UserError(
            f"{source}: its tokenizer files cannot be read ({first_line(error)}); copy them from the model"
        ) from error


def check_texts(texts: Sequence[str]) -> None:
    """Raises UserError unless `texts` is a list of strings."""
    invalid = [text for text in texts if not isinstance(text, str)]
    if isinstance(texts, str) or invalid:
        raise UserError(f"texts must be a list of strings, not {texts if isinstance(texts, str) else invalid[0]!r}")


def encode(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], context: int) -> np.ndarray:
    """Token ids of texts: the tokens with the special tokens that the tokenizer adds, then padding.

    A text longer than `context` tokens is truncated with a warning, and keeps its end token. The padding has no effect
    in CLIP: the text tower is causal and its output is taken at the end token.

    Args:
        tokenizer: from `load` or `load_fast`.
        texts: K texts.
        context: tokens per text, at least 2 (start and end).

    Returns:
        int32 [K, context].

    Raises:
        UserError: `texts` is not a list of strings, or `context` is below 2.
    """
    check_texts(texts)
    if context < 2:
        raise UserError(f"context={context}: must be at least 2 tokens (start and end)")
    if not texts:
        return np.zeros((0, context), np.int32)
    lengths = [len(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]
    too_long = [text for text, length in zip(texts, lengths, strict=True) if length > context]
    if too_long:
        warn_once(
            f"{len(too_long)} of {len(texts)} texts are longer than {context} tokens and are truncated, first "
            f"{too_long[0]!r}"
        )
    rows = tokenizer(list(texts), padding="max_length", truncation=True, max_length=context)["input_ids"]
    return np.asarray(rows, np.int32)  # [K, context]
