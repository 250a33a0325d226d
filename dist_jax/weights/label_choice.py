"""One of the classifiers of a network for several labels (data.label_key=verb,noun) as a model with one label."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from dist_jax.errors import UserError
from dist_jax.models.dist_network import DistConfig
from dist_jax.weights import table


def choose_label(path: str | Path, class_names: Mapping[str, Sequence[str]], label: str) -> str:
    """The name of the label `label`, or of the only label if it is empty.

    Args:
        path: of the model, for messages.
        class_names: of each label of the model, by label name.
        label: a label name, or empty.

    Raises:
        UserError: an unknown label, or no choice between several labels.
    """
    known = ", ".join(class_names)
    if label and label not in class_names:
        raise UserError(f"{path} has no label {label!r}; its labels: {known}")
    if not label and len(class_names) > 1:
        raise UserError(
            f"{path} has the labels {known}; choose one: dist_jax.load(path, label=...), or --label-key of a command"
        )
    return label or next(iter(class_names))


def select_label(
    dist: DistConfig, params: dict, class_names: Mapping[str, Sequence[str]], label: str
) -> tuple[DistConfig, dict]:
    """The part of a network for one label.

    Args:
        dist: sizes of the network.
        params: its parameters.
        class_names: of each label, in the order of the outputs.
        label: a key of `class_names`.

    Returns:
        Sizes and parameters of the network with one label.
    """
    if len(class_names) == 1:
        return dist, params
    sizes = {name: len(names) if dist.num_classes else dist.embed_dim for name, names in class_names.items()}
    names = list(sizes)
    start = sum(sizes[name] for name in names[: names.index(label)])
    leaves = table.flatten(params)
    outputs = ("classifier/kernel", "classifier/bias") if dist.num_classes else ("proj",)
    for path in outputs:  # their last axis is the output
        leaves[path] = leaves[path][..., start : start + sizes[label]]
    num_classes = sizes[label] if dist.num_classes else 0
    return dataclasses.replace(dist, num_labels=1, num_classes=num_classes), table.unflatten(leaves)
