"""A folder of video embeddings: vectors, the table of their videos and times, the settings that made them.

settings.json             model, videos folder, windows; vectors of other settings are refused
embeddings.safetensors    "embeddings", float32 [R, E], unit length
embeddings.csv            path (relative to the videos folder), start_s, end_s of each vector, in the same order
parts/00000.*             the same two files for the videos of one save of an unfinished job

A table is always written before its vectors and deleted after them, and the vectors decide how many of its rows count.
So a job that is killed at any time loses only what it did not save. Vectors in parts/ without a table are not read.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from dist_jax import files
from dist_jax.errors import UserError
from dist_jax.weights.checkpoint_files import write_safetensors

FORMAT = "dist_jax embeddings 1"
SETTINGS, MERGED, PARTS = "settings.json", "embeddings", "parts"
COLUMNS = ("path", "start_s", "end_s")
_SAME_MODEL = "fingerprint"  # the model's path may change


class Span(NamedTuple):
    """A part of a video, or a whole video."""

    path: str  # relative to the videos folder
    start_s: float  # seconds from the start of the file
    end_s: float


class Embeddings(NamedTuple):
    """R vectors and what they describe."""

    spans: list[Span]
    vectors: np.ndarray  # float32 [R, E], unit length


class EmbeddingStore:
    """Embeddings that grow: finished videos are saved in parts, and `finish` joins the parts."""

    def __init__(self, folder: str, settings: dict) -> None:
        """Opens or creates `folder`.

        Args:
            folder: missing, empty, or of an earlier job with the same settings.
            settings: JSON values: "model", its "fingerprint", "embed_dim", and all that decides the vectors.

        Raises:
            UserError: `folder` has other files, or embeddings of other settings.
        """
        self._folder, self._settings = Path(folder), settings
        if (self._folder / SETTINGS).exists():
            _check_same(folder, read_settings(folder), settings)
        elif self._folder.exists() and (not self._folder.is_dir() or any(self._folder.iterdir())):
            raise UserError(f"{folder} exists and has no {SETTINGS}, so it has no embeddings; use another --output")
        else:
            files.make_folder(folder)
            text = json.dumps({"format": FORMAT, **settings}, indent=1) + "\n"
            files.write_text(str(self._folder / SETTINGS), text)
        self._finished = {span.path for span in read(folder).spans}

    @property
    def finished(self) -> frozenset[str]:
        """Paths of the videos whose vectors are saved."""
        return frozenset(self._finished)

    def add(self, embeddings: Embeddings) -> None:
        """Saves all vectors of one or more videos as a new part."""
        parts = self._folder / PARTS
        files.make_folder(str(parts))
        numbers = [int(file.stem) for file in parts.glob("*.safetensors")]
        _write(parts / f"{max(numbers, default=-1) + 1:05d}", embeddings)
        self._finished |= {span.path for span in embeddings.spans}

    def finish(self) -> int:
        """Joins the parts. Returns the number of vectors."""
        embeddings = read(str(self._folder))
        if (self._folder / PARTS).exists():
            _write(self._folder / MERGED, embeddings)
            _delete_parts(self._folder / PARTS)
        return len(embeddings.spans)


def read_settings(folder: str) -> dict:
    """The settings of a folder of embeddings. Raises UserError if it is none."""
    path = os.path.join(folder, SETTINGS)
    if not os.path.exists(path):
        raise UserError(f"{folder} has no {SETTINGS}; make the embeddings with --model, --videos and --output {folder}")
    try:
        settings = json.loads(files.read_text(path))
        found = settings.pop("format")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path} does not contain the settings of embeddings ({error})") from error
    if found != FORMAT:
        raise UserError(f"{path} has format {found!r}, this dist_jax reads {FORMAT!r}; make the embeddings again")
    return settings


def read(folder: str) -> Embeddings:
    """Reads all saved vectors, also those of an unfinished job.

    Raises:
        UserError: no folder of embeddings, or damaged or edited files.
    """
    empty = np.zeros((0, read_settings(folder)["embed_dim"]), np.float32)
    merged = Path(folder) / f"{MERGED}.safetensors"
    parts = [file for file in sorted((Path(folder) / PARTS).glob("*.safetensors")) if file.with_suffix(".csv").exists()]
    spans: list[Span] = []
    vectors = [empty]
    finished: set[str] = set()  # a job that is killed in `finish` leaves parts that are joined already
    for file in [merged, *parts] if merged.exists() else parts:
        part = _read(file, empty.shape[1])
        new = [i for i, span in enumerate(part.spans) if span.path not in finished]
        spans += [part.spans[i] for i in new]
        vectors.append(part.vectors[new])
        finished |= {span.path for span in part.spans}
    return Embeddings(spans, np.concatenate(vectors))


def _delete_parts(folder: Path) -> None:
    """Deletes the folder of the joined parts, vectors first: a table without vectors counts as an unfinished save."""
    for file in sorted(folder.iterdir(), key=lambda file: (file.suffix != ".safetensors", file.name)):
        file.unlink()
    folder.rmdir()


def _check_same(folder: str, saved: dict, settings: dict) -> None:
    different = {key for key in saved.keys() | settings.keys() if saved.get(key) != settings.get(key)} - {"model"}
    if _SAME_MODEL in different:
        raise UserError(f"{folder} has embeddings of another model ({saved['model']}); use another --output")
    if different:
        changes = ", ".join(f"{key} {saved.get(key)} instead of {settings.get(key)}" for key in sorted(different))
        raise UserError(f"{folder} has embeddings with {changes}; use another --output or these settings")


def _write(stem: Path, embeddings: Embeddings) -> None:
    """Writes STEM.csv, then STEM.safetensors, each atomically."""
    files.write_text(f"{stem}.csv", _to_csv(embeddings.spans))
    unfinished = stem.with_name(stem.name + ".unfinished")
    metadata = {"rows": _digest(embeddings.spans)}
    try:
        write_safetensors(unfinished, {"embeddings": np.ascontiguousarray(embeddings.vectors, np.float32)}, metadata)
        unfinished.replace(f"{stem}.safetensors")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{stem}.safetensors: cannot be written ({error})") from error


def _read(file: Path, embed_dim: int) -> Embeddings:
    try:
        with safe_open(file, framework="numpy") as tensors:
            vectors, digest = tensors.get_tensor("embeddings"), (tensors.metadata() or {}).get("rows")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: damaged or not a file of embeddings ({error}); delete it and embed again") from error
    table = file.with_suffix(".csv")
    try:
        rows = list(csv.reader(io.StringIO(files.read_text(str(table)))))
        spans = [Span(path, float(start), float(end)) for path, start, end in rows[1 : len(vectors) + 1]]
    except (ValueError, csv.Error) as error:
        raise UserError(f"{table} is not a table of embeddings ({error}); restore it") from error
    if vectors.shape != (len(spans), embed_dim) or digest != _digest(spans):
        raise UserError(f"{table} was changed: its rows are not those of the vectors in {file.name}; restore it")
    return Embeddings(spans, vectors)


def _to_csv(spans: Sequence[Span]) -> str:
    text = io.StringIO()
    # Quotes around every path: without them, the reader rejects a carriage return in a file name.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(COLUMNS)
    writer.writerows((span.path, round(float(span.start_s), 3), round(float(span.end_s), 3)) for span in spans)
    return text.getvalue()


def _digest(spans: Sequence[Span]) -> str:
    return hashlib.sha256(_to_csv(spans).encode()).hexdigest()
