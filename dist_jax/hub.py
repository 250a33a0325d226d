"""Files of the Hugging Face hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from dist_jax.errors import UserError, first_line


def is_id(source: str) -> bool:
    """Whether `source` can be the id of a hub repository: owner/name."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) is not None


def download(repository: str, patterns: Sequence[str]) -> Path:
    """The directory with those files of a repository that match `patterns`, downloaded unless they are cached."""
    import httpx
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except (OSError, httpx.HTTPError, ValueError) as error:  # the hub's own errors are OSErrors or HTTPErrors
        # Their messages have many lines; the first sentence says whether it is the network or the name.
        raise UserError(
            f"{repository}: no such directory or file here, and not to be had from the Hugging Face hub either "
            f"({first_line(error)}); without network, copy the model's files by other means "
            "(config.json, model.safetensors, tokenizer.json or vocab.json and merges.txt) and give their directory"
        ) from error
