"""Shardings: one table of parameter partitions, and the rows of a batch that each host reads."""

import math
import re
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dist_jax.errors import UserError
from dist_jax.typing import PyTree

BATCH = PartitionSpec(("data", "fsdp"))  # the first axis of every batch

# (pattern searched in a parameter's path, partition of its axes). The first match applies. Parameters under blocks,
# layers and pooling are stacked: their first axis is the layer. The path of an optimizer moment ends with the path of
# its parameter, so the same patterns match it.
PARTITIONS: tuple[tuple[str, PartitionSpec], ...] = (
    # Frozen towers. tensor shards heads and hidden units. fsdp shards a contracted axis. fsdp also shards the
    # activations by clip, so XLA gathers the parameters of a block, not the activations.
    (r"blocks/attention/(query|key|value)/kernel(/qvalue)?$", PartitionSpec(None, "fsdp", "tensor", None)),
    (r"blocks/attention/(query|key|value)/bias$", PartitionSpec(None, "tensor", None)),
    (r"blocks/attention/out/kernel(/qvalue)?$", PartitionSpec(None, "tensor", "fsdp", None)),
    (r"blocks/mlp/fc/kernel(/qvalue)?$", PartitionSpec(None, "fsdp", "tensor")),
    (r"blocks/mlp/fc/bias$", PartitionSpec(None, "tensor")),
    (r"blocks/mlp/proj/kernel(/qvalue)?$", PartitionSpec(None, ("tensor", "fsdp"), None)),
    (r"blocks/(attention/out|mlp/proj)/bias$", PartitionSpec()),
    # The values of a quantised kernel have the kernel's partition. Its scales have length 1 in the contracted axes.
    (r"blocks/attention/(query|key|value)/kernel/scale$", PartitionSpec(None, None, "tensor", None)),
    (r"blocks/mlp/fc/kernel/scale$", PartitionSpec(None, None, "tensor")),
    (r"blocks/(attention/out|mlp/proj)/kernel/scale$", PartitionSpec()),
    (r"blocks/ln_[12]/(scale|bias)$", PartitionSpec()),
    (r"patch_embedding/(kernel|bias)$", PartitionSpec()),
    (r"vision/(class_token|positions|proj(/(kernel|bias))?|ln_(pre|post)/(scale|bias))$", PartitionSpec()),
    (r"text/(token_embedding|positions|proj|ln_final/(scale|bias)|head/(kernel|bias))$", PartitionSpec()),
    (r"logit_(scale|bias)$", PartitionSpec()),
    # The attention pooling of SigLIP and PE, as the blocks.
    (r"vision/head/attention/(query|key|value)/kernel$", PartitionSpec("fsdp", "tensor", None)),
    (r"vision/head/attention/(query|key|value)/bias$", PartitionSpec("tensor", None)),
    (r"vision/head/attention/out/kernel$", PartitionSpec("tensor", "fsdp", None)),
    (r"vision/head/mlp/fc/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"vision/head/mlp/fc/bias$", PartitionSpec("tensor")),
    (r"vision/head/mlp/proj/kernel$", PartitionSpec(("tensor", "fsdp"), None)),
    (r"vision/head/(probe|ln/(scale|bias)|(attention/out|mlp/proj)/bias)$", PartitionSpec()),
    # DiST network. fsdp shards its parameters and optimizer state; TrainStep gathers the parameters for a step.
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
    # Probes. Their attention kernels are [D, heads, head width], out [heads, head width, D].
    (r"(probe_attention/(query|key|value)|probe_mlp/fc|classifier)/kernel$", PartitionSpec("fsdp")),
    (r"probe_attention/out/kernel$", PartitionSpec(None, None, "fsdp")),
    (r"probe_mlp/proj/kernel$", PartitionSpec(None, "fsdp")),
    (r"(probe_(attention|mlp)/\w+|classifier|ln_(tokens|mlp))/(bias|scale)$", PartitionSpec()),
    # Step counters of the training state and of the optimizer.
    (r"(^|/)(step|count)$", PartitionSpec()),
)


def path_name(path: tuple) -> str:
    """A jax.tree_util key path -> "layers/ffn/fc/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def tree_shardings(mesh: Mesh, tree: PyTree) -> PyTree:
    """The NamedSharding of every leaf (anything with a shape), from PARTITIONS.

    Raises:
        ValueError: no pattern matches a leaf; names the leaf.
        UserError: the size of an axis is not divisible by the mesh axes that shard it.
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf_sharding(mesh, path_name(path), leaf.shape), tree)


def leaf_sharding(mesh: Mesh, name: str, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding of the parameter `name`. Raises the errors of `tree_shardings`."""
    spec = next((spec for pattern, spec in PARTITIONS if re.search(pattern, name)), None)
    if spec is None:
        raise ValueError(f"parameter {name} {shape} matches no pattern of sharding.PARTITIONS; add one")
    for size, axes in zip(shape, spec, strict=False):
        axes = (axes,) if isinstance(axes, str) else axes or ()
        if size % math.prod(mesh.shape[axis] for axis in axes):
            factors = " x ".join(f"mesh.{axis}={mesh.shape[axis]}" for axis in axes)
            raise UserError(f"parameter {name} {shape}: {size} is not divisible by {factors}; choose another mesh")
    return NamedSharding(mesh, spec)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array with a full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis over data and fsdp."""
    return NamedSharding(mesh, BATCH)


def num_batch_shards(mesh: Mesh) -> int:
    """Devices that share the clips of a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def over_clips(function: Callable[..., jax.Array], mesh: Mesh, clip_axes: Sequence[int]) -> Callable[..., jax.Array]:
    """Runs a function on the clips of each device, with `jax.shard_map`.

    XLA then sees the shapes of a single device: it can merge the axis of the clips with other axes, which would move
    clips between devices otherwise. The gradients of the parameters are summed once, after the function's backward
    pass.

    Args:
        function: (params, *arrays) -> [B, ...]. Each clip's result depends on this clip only.
        mesh: its axes data and fsdp share the clips. The params are complete on every device.
        clip_axes: the axis B of each array.
    """
    specs = [PartitionSpec(*[None] * axis, *BATCH) for axis in clip_axes]
    # check_vma would require a cast of each constant that starts a loop.
    return jax.shard_map(function, mesh=mesh, in_specs=(PartitionSpec(), *specs), out_specs=BATCH, check_vma=False)


def over_clips_and_heads(function: Callable[..., jax.Array], mesh: Mesh) -> Callable[..., jax.Array]:
    """Runs a function on the clips and heads of each device, with `jax.shard_map`.

    Args:
        function: of arrays [..., B, tokens, width] to an array of this form. Each clip and each head has its own
          result; width is head after head.
        mesh: its axes data and fsdp share the clips, tensor shares the heads.
    """

    def on_devices(*arrays: jax.Array) -> jax.Array:
        spec = PartitionSpec(*[None] * (arrays[0].ndim - 3), *BATCH, None, "tensor")
        return jax.shard_map(function, mesh=mesh, in_specs=(spec,) * len(arrays), out_specs=spec, check_vma=False)(
            *arrays
        )

    return on_devices


def check_batch(mesh: Mesh, name: str, batch_size: int, parts: int = 1) -> None:
    """Raises UserError unless the devices of the axes data and fsdp divide each of the `parts` of a batch evenly."""
    num_devices = num_batch_shards(mesh)
    unit = num_devices * parts
    if batch_size % unit:
        lower = batch_size - batch_size % unit
        accumulation = f" x {parts} parts (grad_accum_steps)" if parts > 1 else ""
        nearest = " or ".join(str(size) for size in (lower, lower + unit) if size)
        raise UserError(
            f"{name}={batch_size} is not divisible by {num_devices} devices (mesh data x fsdp){accumulation}; "
            f"use {nearest}"
        )


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a global batch on the devices of this host: int64, increasing."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    rows = {row for (rows,) in indices.values() for row in range(*rows.indices(batch_size))}
    return np.asarray(sorted(rows), np.int64)


def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Places an array on the devices: each device receives its shard. Every host must have the full array."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def place_tree(mesh: Mesh, tree: PyTree) -> PyTree:
    """Places every leaf of a parameter tree by PARTITIONS. Raises the errors of `tree_shardings`."""
    shardings = tree_shardings(mesh, tree)
    return jax.tree.map(lambda leaf, sharding: place(np.asarray(leaf), sharding), tree, shardings)
