"""One configuration on several backbones: their sizes, and the memory and time of a training step on a TPU slice."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from dist_jax.cost import abstract, run_network, slice_cost
from dist_jax.cost.chips import TpuSlice
from dist_jax.cost.run_estimate import RunEstimate
from dist_jax.errors import UserError
from dist_jax.evaluation.tables import markdown_row
from dist_jax.files import user_path
from dist_jax.model_setup import ModelSetup
from dist_jax.models.backbones.vit import VitBackbone
from dist_jax.training.memory import TooLarge

COLUMNS = ("pixels", "tokens", "frozen M", "GFLOPs", "GiB per chip", "M cycles", "clips/s")
CAPTION = (
    "Pixels: height and width of a frame. Tokens: of a frame. Frozen M: 10^6 parameters of the image tower. GFLOPs: "
    "10^9 operations of the forward pass of one clip, frozen backbone and trained network; a multiply-add counts as "
    "two. GiB per chip: of a training step with its prefetched batches. M cycles: 10^6 cycles of a training step on "
    "one chip, as the TPU compiler estimates them (not measured), without collectives. Clips/s: of the slice at this "
    "step time."
)


def setups(config: ml_collections.ConfigDict, names: Sequence[str], mesh: Mesh) -> list[ModelSetup]:
    """The setup of `config` on each backbone. Patch size, resolution and number of blocks are those of the backbone.

    Args:
        config: validated; its data.resolution, if it is not 0, is that of all backbones.
        names: values of config.backbone.weights.
        mesh: of devices of a slice.

    Raises:
        UserError: no name, an empty name, a name given twice; a backbone that is unknown or does not fit the settings
          or the mesh.
    """
    names = [user_path(name) for name in names]
    if not all(names) or not names:
        raise UserError(f"--backbones={','.join(names)}: must be names of backbones, separated by commas")
    duplicates = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if duplicates:
        raise UserError(f"--backbones: {', '.join(duplicates)} is given several times; remove all but one")
    return [abstract.setup(_on_backbone(config, name), mesh) for name in names]


def _on_backbone(config: ml_collections.ConfigDict, weights: str) -> ml_collections.ConfigDict:
    changed = config.copy_and_resolve_references()
    changed.backbone.weights = weights
    return changed


def lines(found: Sequence[ModelSetup], tpu_slice: TpuSlice) -> Iterator[str]:
    """The lines of a Markdown table and its caption. Every row is compiled when it is read, which takes minutes."""
    names = [setup.config.backbone.weights for setup in found]
    width = max(map(len, names))
    yield markdown_row(("backbone".ljust(width), *COLUMNS))
    yield markdown_row(("-" * width, *("-" * len(column) for column in COLUMNS)))
    for name, setup in zip(names, found, strict=True):
        cells = sizes(setup) + step_cells(setup, tpu_slice)
        yield markdown_row((name.ljust(width), *map(_aligned, cells, COLUMNS)))
    yield f"\n{CAPTION}"


def _aligned(cell: str, column: str) -> str:
    return cell.rjust(len(column))


def sizes(setup: ModelSetup) -> list[str]:
    """The cells that do not depend on the slice: pixels, tokens, parameters, operations."""
    model, backbone = setup.model, setup.model.backbone
    assert isinstance(backbone, VitBackbone)
    # The operations of the model in float32: in bfloat16, means on TPUs are products as well, see `layers.row_means`.
    backbone = dataclasses.replace(backbone, dtype=jnp.float32, quantize="")
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(backbone.param_shapes()["vision"]))
    operations = run_network.forward_operations(model.network_name, model.dist, backbone)
    tokens = backbone.num_prefix_tokens + backbone.num_patches
    return [str(backbone.resolution), str(tokens), f"{parameters / 1e6:.1f}", f"{operations / 1e9:.0f}"]


def step_cells(setup: ModelSetup, tpu_slice: TpuSlice) -> list[str]:
    """The cells of a training step on a slice: memory, cycles, clips per second; or that it does not fit."""
    try:
        cost = slice_cost.step_cost(setup, tpu_slice)
    except TooLarge as error:
        return [str(error), "", ""]
    estimate = RunEstimate(setup.config, tpu_slice, cost.cycles)
    memory, cycles = cost.memory.total / 2**30, cost.cycles.total / 1e6
    return [f"{memory:.2f}", f"{cycles:.0f}", f"{estimate.clips_per_second:.0f}"]
