"""Where everything lies: the mesh, one table of parameter partitions, and the rows of a batch that a host reads."""

import math
import re
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dist_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))  # the first axis of every batch

# (pattern found in a parameter's path, partition of its axes); the first that is found counts. The leading axis of
# everything under blocks, layers and pooling is the layer. Optimizer state is found by the parameter's path within it.
PARTITIONS: tuple[tuple[str, PartitionSpec], ...] = (
    # The frozen towers: heads and hidden units over tensor, and the axis that a product sums over, over fsdp too: no
    # result is spread over fsdp but by its clips, so XLA gathers a block's parameters and not the clips' activations.
    (r"blocks/attention/(query|key|value)/kernel$", PartitionSpec(None, "fsdp", "tensor", None)),
    (r"blocks/attention/(query|key|value)/bias$", PartitionSpec(None, "tensor", None)),
    (r"blocks/attention/out/kernel$", PartitionSpec(None, "tensor", "fsdp", None)),
    (r"blocks/mlp/fc/kernel$", PartitionSpec(None, "fsdp", "tensor")),
    (r"blocks/mlp/fc/bias$", PartitionSpec(None, "tensor")),
    (r"blocks/mlp/proj/kernel$", PartitionSpec(None, ("tensor", "fsdp"), None)),
    (r"blocks/(attention/out|mlp/proj)/bias$", PartitionSpec()),
    (r"blocks/ln_[12]/(scale|bias)$", PartitionSpec()),
    (r"patch_embedding/kernel$", PartitionSpec()),
    (r"vision/(class_token|positions|proj|ln_(pre|post)/(scale|bias))$", PartitionSpec()),
    (r"text/(token_embedding|positions|proj|ln_final/(scale|bias))$", PartitionSpec()),
    (r"logit_scale$", PartitionSpec()),
    # The DiST network: small beside CLIP; its state is spread over fsdp, and gathered for use (see TrainStep).
    (r"layers/temporal/", PartitionSpec()),
    (r"layers/(input|to_integration)/kernel$", PartitionSpec()),
    (r"layers/(ffn/(fc|proj)|to_temporal|temporal_ffn/reduce)/kernel$", PartitionSpec(None, "fsdp")),
    (r"layers/temporal_ffn/conv_time/kernel$", PartitionSpec()),
    (r"layers/temporal_ffn/expand/kernel$", PartitionSpec(None, None, "fsdp")),
    (r"layers/.*(bias|scale|class_token)$", PartitionSpec()),
    (r"pooling/.*/attention/(query|key|value|out)/kernel$", PartitionSpec()),
    (r"pooling/.*_mlp/fc/kernel$", PartitionSpec(None, "fsdp")),
    (r"pooling/.*_mlp/proj/kernel$", PartitionSpec(None, None, "fsdp")),
    (r"pooling/.*(bias|scale)$", PartitionSpec()),
    (r"pooling/positions$", PartitionSpec()),
    (r"temporal_stem/(kernel|bias)$", PartitionSpec()),
    (r"class_projection/(kernel|bias)$", PartitionSpec()),
    (r"(^|/)(spatial_query|video_query|proj|ln_post/(scale|bias))$", PartitionSpec()),
    # What counts, in the training state and the optimizer's.
    (r"(^|/)(step|count)$", PartitionSpec()),
)


def make_mesh(shape: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of config.mesh over all devices; -1 takes what the other axes leave.

    Raises:
        UserError: if the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [shape[axis] for axis in AXES]
    fixed = math.prod(size for size in sizes if size != -1)
    sizes = [len(devices) // fixed if size == -1 else size for size in sizes]
    if math.prod(sizes) != len(devices):
        wanted = ", ".join(f"mesh.{axis}={shape[axis]}" for axis in AXES)
        raise UserError(f"{wanted} do not fill {len(devices)} devices; the product must be their number (-1: the rest)")
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def path_name(path: tuple) -> str:
    """A jax.tree_util key path -> "layers/ffn/fc/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def tree_shardings(mesh: Mesh, tree: object) -> object:
    """The NamedSharding of every leaf (anything with a shape) by PARTITIONS.

    Raises:
        ValueError: naming each leaf that no pattern matches.
        UserError: for a leaf that its partition does not divide.
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf_sharding(mesh, path_name(path), leaf.shape), tree)


def leaf_sharding(mesh: Mesh, name: str, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding of the parameter called `name`; raises as `tree_shardings` does."""
    spec = next((spec for pattern, spec in PARTITIONS if re.search(pattern, name)), None)
    if spec is None:
        raise ValueError(f"parameter {name} {shape} matches no pattern of sharding.PARTITIONS; add one")
    for size, axes in zip(shape, spec, strict=False):
        axes = (axes,) if isinstance(axes, str) else axes or ()
        if size % math.prod(mesh.shape[axis] for axis in axes):
            ways = " x ".join(f"mesh.{axis}={mesh.shape[axis]}" for axis in axes)
            raise UserError(f"parameter {name} {shape}: {size} is not divisible by {ways}; choose a mesh that fits")
    return NamedSharding(mesh, spec)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis over data and fsdp."""
    return NamedSharding(mesh, BATCH)


def check_batch(mesh: Mesh, name: str, batch_size: int, parts: int = 1) -> None:
    """Raises UserError unless each of the `parts` of a batch divides over the devices that split it."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % (ways * parts):
        lower = batch_size - batch_size % (ways * parts)
        raise UserError(
            f"{name}={batch_size} is not divisible by {ways} devices (mesh data x fsdp)"
            + (f" x {parts} parts (grad_accum_steps)" if parts > 1 else "")
            + f"; the nearest that are: {' and '.join(str(n) for n in (lower, lower + ways * parts) if n)}"
        )


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this host's devices hold: int64, increasing."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    rows = {row for (rows,) in indices.values() for row in range(*rows.indices(batch_size))}
    return np.asarray(sorted(rows), np.int64)


def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A host array that every host has in full -> a global array, of which each device holds its part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def place_tree(mesh: Mesh, tree: object) -> object:
    """`place` for every leaf of a tree of parameters, as PARTITIONS says; raises as `tree_shardings` does."""
    return jax.tree.map(lambda leaf, where: place(np.asarray(leaf), where), tree, tree_shardings(mesh, tree))
