"""Files of the Hugging Face hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from dist_jax.errors import UserError, first_line

_LOG_IN = "log in with a token that has access to it: hf auth login"
_NO_NETWORK = (
    "without network, copy the model's files (config.json, model.safetensors, tokenizer.json or vocab.json and "
    "merges.txt) and use their directory"
)


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
        problem = _access_problem(error)
        problem = problem or f"the download from the Hugging Face hub failed ({first_line(error)}); {_NO_NETWORK}"
        raise UserError(f"{repository}: not a local file or directory, and {problem}") from error


def list_files(repository: str) -> list[str]:
    """The files of a repository; none if it does not exist. Raises UserError without access or network."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return HfApi().list_repo_files(repository)
    except RepositoryNotFoundError:
        return []
    except (OSError, httpx.HTTPError, ValueError) as error:
        problem = _access_problem(error) or f"the Hugging Face hub cannot be reached ({first_line(error)}); try again"
        raise UserError(f"{repository}: {problem}") from error


def check_login(repository: str) -> None:
    """Raises UserError if nobody is logged in, so that nothing can be uploaded to `repository`. Sends no request."""
    from huggingface_hub import get_token

    if not is_id(repository):
        raise UserError(f"{repository}: must be a repository of the Hugging Face hub: owner/name")
    if not get_token():
        raise UserError(f"{repository}: uploads to the Hugging Face hub need a token; {_LOG_IN} (or set HF_TOKEN)")


def upload(directory: Path, repository: str, private: bool) -> str:
    """Creates a repository, unless it exists, and makes the files of `directory` its only files, in a new commit.

    Args:
        directory: local files.
        repository: owner/name.
        private: whether only its owner can see it.

    Returns:
        The address of the repository.

    Raises:
        UserError: no access, no network, or a public repository although `private` is set.
    """
    import httpx
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = str(api.create_repo(repository, private=private, exist_ok=True))
        if private and not api.model_info(repository).private:
            raise UserError(f"{repository} exists and is public; make it private in its settings, or use another name")
        api.upload_folder(
            repo_id=repository, folder_path=directory, delete_patterns="*", commit_message="dist_jax model"
        )
    except (OSError, httpx.HTTPError, ValueError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) else None  # of the upload of a large file
        problem = _access_problem(cause or error)
        problem = problem or f"the Hugging Face hub failed ({first_line(cause or error)}); try again"
        raise UserError(f"{directory} is complete, but uploading it to {repository} failed: {problem}") from error
    return address


def _access_problem(error: BaseException) -> str:
    """Why a repository is not accessible, and what to do; empty for other errors."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return f"the Hugging Face hub gives access only with its owner's permission; request it there, then {_LOG_IN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"the Hugging Face hub has no such repository, or a private one; check the name, or {_LOG_IN}"
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"the Hugging Face hub refuses access (status {error.response.status_code}); {_LOG_IN}"
    return ""
