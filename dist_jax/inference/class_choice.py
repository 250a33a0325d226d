"""The classes of the option --labels, or those of the model."""

import os
from collections.abc import Sequence
from pathlib import Path

import jax

from dist_jax import class_names
from dist_jax.errors import UserError
from dist_jax.inference.predictor import Predictor


def choose_classes(model: Predictor, path: str, labels: str | None) -> tuple[Sequence[str], jax.Array | None]:
    """The K class names of `labels`, or of the model without it.

    Args:
        model: from `dist_jax.load`.
        path: of the model, for messages.
        labels: value of --labels: see `read_labels`. None: the classes of the training.

    Returns:
        The names, and their text features, float32 [K, E]. None: the features of the model's own classes.

    Raises:
        UserError: the model has no class names, or classifies only those of its training.
    """
    names = model.class_names if labels is None else read_labels(labels)
    if not names:
        raise UserError(f'{path} has no class names; use --labels "a,b,c" or --labels FILE')
    if labels is None:
        return names, None
    if model.has_own_classes:
        raise UserError(f"{path} has its own classifier, so it cannot classify other labels; remove --labels")
    return names, model.encode_classes(names)


def read_labels(labels: str) -> list[str]:
    """Class names from a file (one per line) or from a comma-separated list."""
    if os.path.isfile(labels):  # Path.is_file raises an error if the text is longer than a file name can be
        return class_names.read(Path(labels))
    if labels.endswith(".txt"):
        raise UserError(f"--labels {labels}: no such file")
    return class_names.split(labels, "--labels")
