"""Initial parameters from another trained network, with a possibly different number of frames."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from dist_jax.errors import UserError, warn
from dist_jax.models.dist_network import DistConfig
from dist_jax.weights import table
from dist_jax.weights.model_files import read_dist

# Parameters with an axis of the S frames -> this axis.
FRAME_AXES = {"layers/class_token": 1, "pooling/positions": 1}


def load_initial(
    path: str | Path, network: str, target: DistConfig, backbone: Mapping[str, str], same_backbone: bool
) -> dict:
    """Initial parameters of the network `target`, float32, from the model at `path`, converted by `adapt`.

    Args:
        path: a model directory, a training workdir or a published .pyth file.
        network: config.model.network.
        target: sizes of the network.
        backbone: "name" and "fingerprint" of the CLIP that the network reads.
        same_backbone: True: raise an error if the model was trained on another CLIP (for evaluation). False: print a
          warning (for training). A model without this information is accepted.

    Raises:
        UserError: no model at `path`; another network; sizes that `adapt` cannot change; another CLIP.
    """
    try:
        source = read_dist(path)
        if source.network != network:
            raise UserError(f"it contains the network {source.network}, but model.network is {network}")
        dist = source.dist
        if Path(path).is_file() and len(dist.layers) == len(target.layers):
            dist = dataclasses.replace(dist, layers=target.layers)  # published files do not contain the block numbers
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), source.params)  # files may have float16
        params = adapt(params, dist, target)
    except UserError as error:
        raise UserError(f"init_from={path}: {error}") from error
    if source.backbone is not None and source.backbone["fingerprint"] != backbone["fingerprint"]:
        trained, current = (f"{one['name']} ({one['fingerprint'][:12]})" for one in (source.backbone, backbone))
        difference = (
            f"init_from={path}: the network was trained on the CLIP {trained}, but backbone.weights is {current}"
        )
        if same_backbone:
            raise UserError(
                f"{difference}; set backbone.weights to the CLIP of the training, or combine the two with python -m "
                "dist_jax.convert --clip ... --use-clip given"
            )
        warn(f"{difference}; training starts on features that the network has not seen")
    return params


def adapt(params: dict, source: DistConfig, target: DistConfig) -> dict:
    """Converts the parameters of `source` to those of `target`, which may differ in the number of frames and labels.

    The learned tokens and positions of the S frames are interpolated along time. For several labels, the projection of
    a network with one label is repeated. All other parameters stay the same.

    Args:
        params: of the network `source`.
        source: sizes of `params`.
        target: sizes of the result.

    Returns:
        NumPy arrays, or the leaves of `params` that do not change.

    Raises:
        UserError: other sizes differ, or `source` has several labels; lists them with both values.
    """
    repeat_labels = source.num_labels == 1 and not source.num_classes
    adaptable = {"num_frames"} | ({"num_labels"} if repeat_labels else set())
    differences = [
        f"{field.name} is {getattr(source, field.name)}, must be {getattr(target, field.name)}"
        for field in dataclasses.fields(DistConfig)
        if field.name not in adaptable and getattr(source, field.name) != getattr(target, field.name)
    ]
    if differences:
        raise UserError(f"the weights belong to a different network: {'; '.join(differences)}")
    leaves = table.flatten(params)
    if source.num_sparse_frames != target.num_sparse_frames:
        for path, axis in FRAME_AXES.items():
            if path in leaves:  # only DiST has them
                leaves[path] = interpolate(np.asarray(leaves[path]), target.num_sparse_frames, axis)
    if source.num_labels != target.num_labels:
        leaves["proj"] = np.tile(leaves["proj"], (1, target.num_labels))
    return table.unflatten(leaves)


def interpolate(values: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Linear interpolation along one axis to `length`, as in PyTorch (mode="linear", align_corners=False).

    New frame i is at position (i + 1/2) * n / length - 1/2 of the n old frames, clamped to the first and last frame.
    """
    old_length = values.shape[axis]
    positions = np.clip((np.arange(length) + 0.5) * old_length / length - 0.5, 0, old_length - 1)
    low = np.floor(positions).astype(int)
    high = np.minimum(low + 1, old_length - 1)
    weight = np.expand_dims((positions - low).astype(values.dtype), tuple(range(1, values.ndim - axis)))
    return np.take(values, low, axis) * (1 - weight) + np.take(values, high, axis) * weight
