"""Files of EPIC-KITCHENS-100 scores: one NumPy archive per evaluation, for `python -m dist_jax.epic`.

The archive contains `narration_ids` (text [n]) and the softmax scores of each view for the labels of the run: `verb`
float32 [n, V, 97], `noun` float32 [n, V, 300].
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from dist_jax.errors import UserError
from dist_jax.evaluation.epic import RunScores
from dist_jax.files import write_bytes

LABELS = ("verb", "noun")


def write_run_scores(file: epath.Path, narration_ids: Sequence[str], scores: Mapping[str, np.ndarray]) -> None:
    """Writes the scores of the labels of a run, float32 [n, V, K] each, atomically.

    Raises:
        UserError: the file cannot be written.
    """
    stream = io.BytesIO()
    arrays: dict[str, Any] = {"narration_ids": np.array(narration_ids), **scores}
    np.savez_compressed(stream, **arrays)
    write_bytes(str(file), stream.getvalue())


def read_run_scores(path: str, label: str) -> RunScores:
    """The scores for "verb" or "noun" in a file of `write_run_scores`.

    Raises:
        UserError: no such file, another kind of file, or a run without this label.
    """
    try:
        with np.load(io.BytesIO(epath.Path(path).read_bytes()), allow_pickle=False) as arrays:
            content = {name: arrays[name] for name in arrays.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read as scores ({error}); use a file RESULTS_scores.npz") from error
    if "narration_ids" not in content or not set(LABELS) & content.keys():
        raise UserError(f"{path}: contains {', '.join(sorted(content))}; use a file RESULTS_scores.npz")
    if label not in content:
        raise UserError(f"{path}: contains no {label} scores; use the scores of a run with data.label_key={label}")
    return RunScores(content["narration_ids"].tolist(), content[label])
