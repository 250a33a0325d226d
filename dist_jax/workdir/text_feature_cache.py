"""Text features of the class names in WORKDIR/text_features.npz: predictions then need no tokenizer and text tower."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from dist_jax.errors import UserError, first_line
from dist_jax.workdir.run_metadata import RunMetadata

FILE = "text_features.npz"
_DIGEST = "texts"  # array next to those of the labels: what the features were computed from


def write(workdir: epath.PathLike, metadata: RunMetadata, text_features: Mapping[str, np.ndarray]) -> None:
    """Writes the features of a run, float32 [K, E] by label name, atomically. Raises UserError if this fails."""
    stream = io.BytesIO()
    arrays: dict[str, Any] = {label: np.asarray(features) for label, features in text_features.items()}
    np.savez(stream, **arrays | {_DIGEST: _digest(metadata)})
    file = epath.Path(workdir) / FILE
    unfinished = file.with_suffix(".tmp")
    try:
        unfinished.write_bytes(stream.getvalue())
        unfinished.replace(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({first_line(error)}); free space or use another folder") from error


def read(workdir: epath.PathLike, metadata: RunMetadata, label: str) -> np.ndarray | None:
    """The features of a label, float32 [K, E]; None: there are none for the CLIP and the texts of `metadata`.

    Raises:
        UserError: the file is damaged.
    """
    file = epath.Path(workdir) / FILE
    if not file.exists():  # runs of older versions
        return None
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            return arrays[label] if str(arrays[_DIGEST]) == _digest(metadata) else None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is damaged ({error}); delete it") from error


def _digest(metadata: RunMetadata) -> str:
    content = [metadata.backbone["fingerprint"], metadata.class_names, metadata.prompt_templates]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
