"""Files of the Hugging Face hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from dist_jax.errors import UserError, first_line


def is_id(source: str) -> bool:
    """True if `source` has the form of a repository id: owner/name."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) is not None


def download(repository: str, patterns: Sequence[str]) -> Path:
    """Downloads the files of a repository that match `patterns`, unless they are cached, and returns their directory.

    Raises:
        UserError: the repository cannot be downloaded.
    """
    import httpx
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except (OSError, httpx.HTTPError, ValueError) as error:  # errors of huggingface_hub are OSError or HTTPError
        # The first line of their messages contains the cause, such as the network or the name.
        raise UserError(
            f"{repository}: not a local file or directory, and the download from the Hugging Face hub failed "
            f"({first_line(error)}); without network, copy the model's files (config.json, model.safetensors, "
            "tokenizer.json or vocab.json and merges.txt) and use their directory"
        ) from error
