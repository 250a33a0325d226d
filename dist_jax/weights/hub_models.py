"""Model directories on the Hugging Face hub."""

from pathlib import Path

from dist_jax import hub
from dist_jax.errors import UserError
from dist_jax.text import tokenizer
from dist_jax.weights import model_directory

CARD = "README.md"
_EMPTY = {".gitattributes", CARD}  # files of a new repository
_FILES = (model_directory.CONFIG, model_directory.TENSORS, model_directory.LABELS, *tokenizer.PATTERNS)


def locate(path: str | Path) -> str | Path:
    """The local directory of a model directory on the hub, downloaded unless it is cached. Other paths are unchanged.

    The config.json of a repository decides whether it is a model directory or something else, such as a CLIP.

    Args:
        path: a path, or a hub id (owner/name). An existing path is never a hub id.

    Raises:
        UserError: the repository does not exist or is not accessible.
    """
    if not hub.is_id(str(path)) or Path(path).expanduser().exists():
        return path
    if not model_directory.is_model_directory(hub.download(str(path), [model_directory.CONFIG])):
        return path
    return hub.download(str(path), _FILES)


def check_target(repository: str) -> None:
    """Checks that a model directory can be uploaded to a repository: a new one, or that of another model directory.

    Raises:
        UserError: nobody is logged in, no network, or a repository with other files, which are not overwritten.
    """
    hub.check_login(repository)
    is_new = not set(hub.list_files(repository)) - _EMPTY
    if not is_new and not model_directory.is_model_directory(hub.download(repository, [model_directory.CONFIG])):
        raise UserError(f"{repository} exists and is not a model directory of dist_jax; use another name")
