"""The table of formats, and the function that writes an artefact.

A format is a module with two functions:

    versions() -> dict[str, object]              # of its library; ImportError if it is not installed
    write(program, metadata, directory) -> None  # UserError if the library cannot represent the program

`docs/extending.md` shows how to add one.
"""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from dist_jax.class_names import to_text
from dist_jax.errors import UserError
from dist_jax.exporting.metadata import describe
from dist_jax.exporting.program import make_program
from dist_jax.files import new_folder
from dist_jax.inference.predictor import Predictor

METADATA, LABELS = "metadata.json", "labels.txt"


class Format(NamedTuple):
    """A row of the table."""

    module: str  # imported when it is used
    requirement: str  # what `pip install` needs for it


FORMATS = {
    "stablehlo": Format("dist_jax.exporting.stablehlo", "jax"),
    "savedmodel": Format("dist_jax.exporting.saved_model", "tensorflow"),
    "onnx": Format("dist_jax.exporting.onnx", "--editable '.[export]'"),
}


def write(
    directory: Path, name: str, model: Predictor, class_names: Sequence[str], text_features: jax.Array | None
) -> None:
    """Writes an artefact, metadata.json and labels.txt atomically.

    Args:
        directory: must not exist, or be empty.
        name: key of FORMATS.
        model: from `dist_jax.load`.
        class_names: K names.
        text_features: of `class_names`, float32 [K, E]. None: the features of the model's own classes.

    Raises:
        UserError: `directory` is not empty, or the library of the format is missing or cannot represent the model.
    """
    module = importlib.import_module(FORMATS[name].module)
    try:
        versions = module.versions()
    except ImportError as error:
        requirement = FORMATS[name].requirement
        raise UserError(f"--format {name}: {error.name} is not installed; pip install {requirement}") from error
    classifier = model.classifier(text_features, model.eval_protocol.zero_shot_weight)
    program = make_program(classifier)
    metadata = {"format": name, **describe(model, classifier, program, class_names)}
    metadata["versions"] |= versions
    with new_folder(directory) as folder:
        (folder / METADATA).write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
        (folder / LABELS).write_text(to_text(class_names), encoding="utf-8")
        module.write(program, metadata, folder)
