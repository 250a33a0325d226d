"""Starting a network from another one's parameters: the same sizes, but perhaps another number of frames."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from dist_jax.errors import UserError, warn
from dist_jax.models.dist_network import DistConfig
from dist_jax.weights import table
from dist_jax.weights.model_files import read_dist

# Parameters that have one row for each of the S frames, and which of their axes that is.
FRAME_AXES = {"layers/class_token": 1, "pooling/positions": 1}


def load_initial(path: str | Path, target: DistConfig, backbone: Mapping[str, str], same_backbone: bool) -> dict:
    """Parameters to start the network `target` from, float32: those of the model at `path`, see `adapt`.

    Args:
        path: a model directory, a training workdir or a published .pyth file.
        target: sizes that are wanted.
        backbone: "name" and "fingerprint" of the CLIP that the network will read.
        same_backbone: whether the model must have been trained on that CLIP, as it must to be evaluated; to be trained
          further it need not, and a warning says so. Where the model does not tell, it is taken to be the same.

    Raises:
        UserError: if there is no model, or one whose sizes differ in more than the number of frames, or its CLIP does.
    """
    try:
        source = read_dist(path)
        dist = source.dist
        if Path(path).is_file() and len(dist.layers) == len(target.layers):
            dist = dataclasses.replace(dist, layers=target.layers)  # which a published file does not know
        params = jax.tree.map(
            lambda leaf: np.asarray(leaf, np.float32), source.params
        )  # some files hold half precision
        params = adapt(params, dist, target)
    except UserError as error:
        raise UserError(f"init_from={path}: {error}") from error
    if source.backbone is not None and source.backbone["fingerprint"] != backbone["fingerprint"]:
        theirs, ours = (f"{one['name']} ({one['fingerprint'][:12]})" for one in (source.backbone, backbone))
        differ = f"init_from={path}: the network was trained on the CLIP {theirs}, backbone.weights is {ours}"
        if same_backbone:
            raise UserError(
                f"{differ}, which it cannot read; set backbone.weights to that CLIP or, if this one is as good, make a "
                "model of the two: python -m dist_jax.convert --clip ... --use-clip given"
            )
        warn(f"{differ}: it starts on features that it has not seen")
    return params


def adapt(params: dict, source: DistConfig, target: DistConfig) -> dict:
    """The parameters of `source` as those of `target`.

    Where S differs, the learned tokens and positions of the frames are interpolated along time; everything else is
    taken as it is, so all other sizes must agree.

    Args:
        params: the DiST network's, as `source` has them.
        source: sizes that `params` have.
        target: sizes that are wanted.

    Returns:
        NumPy arrays or, where nothing changes, the leaves of `params`.

    Raises:
        UserError: naming every size but S that differs, with both values.
    """
    differ = [
        f"{field.name} is {getattr(source, field.name)} there and {getattr(target, field.name)} here"
        for field in dataclasses.fields(DistConfig)
        if field.name != "num_frames" and getattr(source, field.name) != getattr(target, field.name)
    ]
    if differ:
        raise UserError(f"the weights to start from are of another network: {'; '.join(differ)}")
    if source.sparse_frames == target.sparse_frames:
        return params
    leaves = table.flatten(params)
    for path, axis in FRAME_AXES.items():
        leaves[path] = interpolate(np.asarray(leaves[path]), target.sparse_frames, axis)
    return table.unflatten(leaves)


def interpolate(values: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Linear interpolation along one axis to `length`, as torch's interpolate(mode="linear", align_corners=False).

    Frame i of `length` stands at the middle of its part of the clip, so it reads at (i + 1/2) n / length - 1/2 of the n
    old frames, and at the nearest of them beyond the first and last.
    """
    old = values.shape[axis]
    at = np.clip((np.arange(length) + 0.5) * old / length - 0.5, 0, old - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, old - 1)
    share = np.expand_dims((at - low).astype(values.dtype), tuple(range(1, values.ndim - axis)))
    return np.take(values, low, axis) * (1 - share) + np.take(values, high, axis) * share
