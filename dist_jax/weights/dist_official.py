"""Published DiST checkpoints (.pyth of alibaba-mmai-research/DiST): conversion to our parameters and back.

A published state dict holds CLIP's two towers with OpenAI's names and the DiST network as `dist_net.*`, all with the
prefix `backbone.base_encoder.`. Older files use `ladder_net.*` and other names for some parts.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np

from dist_jax.errors import UserError
from dist_jax.models.dist_network import DistConfig, DistNetwork, input_shapes
from dist_jax.weights import checkpoint_files, table
from dist_jax.weights.table import Entry, Shape, Table, axes

PREFIX = "backbone.base_encoder."
DIST_PREFIX = "dist_net."

# PyTorch's convolution kernels are [out, in, t, h, w].
_CONV_TIME = axes(2, 1, 0, ones=(3, 4))  # kernel (k, 1, 1) -> [k, in, out]
_CONV_SPACE = axes(3, 4, 1, 0, ones=(2,))  # kernel (1, 3, 3) -> [3, 3, in, out]
_CONV_POINT = axes(1, 0, ones=(2, 3, 4))  # kernel (1, 1, 1) -> [in, out]


def _stem_to_theirs(ours: np.ndarray) -> np.ndarray:
    taps, inputs, width = ours.shape
    patch = round((inputs / 3) ** 0.5)
    return ours.reshape(taps, patch, patch, 3, width).transpose(4, 3, 0, 1, 2)


# [M, 3, 5, p, p] -> [5, p * p * 3, M]
_STEM = table.Transform(lambda theirs, shape: theirs.transpose(2, 3, 4, 1, 0).reshape(shape), _stem_to_theirs)


def _mlp(name: str, path: str) -> Table:
    return *table.linear(f"{name}.c_fc", f"{path}/fc"), *table.linear(f"{name}.c_proj", f"{path}/proj")


_TOKEN = axes(2, ones=(0, 1))  # [1, 1, C] -> [C]

TABLE: Table = (
    Entry("proj", ("proj",)),
    Entry("aggregated_cls_token", ("video_query",), _TOKEN),
    Entry("aggregated_spatial_cls_token", ("spatial_query",), _TOKEN),
    *table.linear("temporal_stem", "temporal_stem", _STEM),
    *table.linear("input_linears.{}", "layers/input"),
    *table.linear("integration2temporal_nets.{}.linear_fuse", "layers/to_temporal"),
    Entry("temporal2integration_nets.{}.cls_token", ("layers/class_token",), axes(2, 3, ones=(0, 1))),
    *table.linear("temporal2integration_nets.{}.linear_fuse", "layers/to_integration", _CONV_TIME),
    *table.linear("temporal_nets.{}.temporal_net.c_fc1", "layers/temporal/conv_time", _CONV_TIME),
    *table.linear("temporal_nets.{}.temporal_net.c_fc2", "layers/temporal/conv_space", _CONV_SPACE),
    *table.layer_norm("temporal_nets.{}.ln", "layers/temporal/ln"),
    *_mlp("integration_nets.{}.ffn", "layers/ffn"),
    *table.linear("integration_nets.{}.temporal_ffn.c_fc1", "layers/temporal_ffn/reduce", _CONV_POINT),
    *table.linear("integration_nets.{}.temporal_ffn.c_fc2", "layers/temporal_ffn/conv_time", _CONV_TIME),
    *table.linear("integration_nets.{}.temporal_ffn.c_proj", "layers/temporal_ffn/expand", _CONV_POINT),
    *table.layer_norm("integration_nets.{}.ln", "layers/ln"),
    *table.layer_norm("integration_nets.{}.ln_temporal", "layers/ln_temporal"),
    Entry("adapooling_nets.{}.positional_embedding", ("pooling/positions",), axes(1, 2, ones=(0,))),
    *table.joint_attention("adapooling_nets.{}.temporal_transformer.attn", "pooling/temporal/attention"),
    *table.layer_norm("adapooling_nets.{}.temporal_transformer.ln_1", "pooling/temporal/ln"),
    *_mlp("adapooling_nets.{}.output_map_cls_token", "pooling/temporal_mlp"),
    *table.layer_norm("adapooling_nets.{}.ln_out_temp_cls_token", "pooling/temporal_ln"),
    *table.joint_attention("adapooling_nets.{}.spatial_transformer.attn", "pooling/spatial/attention"),
    *table.layer_norm("adapooling_nets.{}.spatial_transformer.ln_1", "pooling/spatial/ln"),
    *_mlp("adapooling_nets.{}.output_map_spatial_cls_token", "pooling/spatial_mlp"),
    *table.layer_norm("adapooling_nets.{}.ln_out_spat_cls_token", "pooling/spatial_ln"),
    *table.linear("proj_spatial_cls_token", "class_projection"),
    *table.layer_norm("ln_post", "ln_post"),
)

OLDER_NETWORK = "ladder_net."
OLDER_NAMES = {  # first component, older -> newer
    "input_map_feat_nets": "input_linears",
    "s2t_fuse_nets": "integration2temporal_nets",
    "t2s_fuse_nets": "temporal2integration_nets",
    "spatial_nets": "integration_nets",
    "final_temporal_nets": "adapooling_nets",
}


def current_name(name: str) -> str:
    """The current form of a name in a published file, without prefix: `dist_net.*` or a name of OpenAI's CLIP."""
    name = name.removeprefix("module.").removeprefix(PREFIX)
    if not name.startswith(OLDER_NETWORK):
        return name
    first, dot, rest = name.removeprefix(OLDER_NETWORK).partition(".")
    return DIST_PREFIX + OLDER_NAMES.get(first, first) + dot + rest


def split(names: Iterable[str], source: str) -> tuple[dict[str, str], dict[str, str]]:
    """Splits the names of a published file into DiST (without `dist_net.`) and CLIP.

    Returns:
        Two dictionaries {current name -> name in the file}.

    Raises:
        UserError: two names of the same tensor.
    """
    dist_names: dict[str, str] = {}
    clip_names: dict[str, str] = {}
    for name in names:
        current = current_name(name)
        part = dist_names if current.startswith(DIST_PREFIX) else clip_names
        key = current.removeprefix(DIST_PREFIX)
        if key in part:
            raise UserError(f"{source}: {part[key]} and {name} are the same tensor; remove one from the file")
        part[key] = name
    return dist_names, clip_names


@functools.cache
def param_shapes(config: DistConfig, num_prefix_tokens: int = 1) -> Mapping[str, Shape]:
    """Shape of every DiST parameter, by path, for a backbone with these prefix tokens; allocates no arrays."""
    one_patch = input_shapes(config, num_tokens=num_prefix_tokens + 1, resolution=config.patch_size)
    params = jax.eval_shape(DistNetwork(config).init, jax.random.key(0), *one_patch)["params"]
    return MappingProxyType({path: leaf.shape for path, leaf in table.flatten(params).items()})


_SIZES = {  # symbol of a size -> (tensor, axis) pairs with this size; the most frequent value is used
    "C": (("proj", 0), ("aggregated_cls_token", 2), ("ln_post.weight", 0)),
    "M": (("temporal_stem.weight", 0), ("temporal_stem.bias", 0), ("temporal_nets.0.ln.weight", 0)),
    "patch": (("temporal_stem.weight", 4), ("temporal_stem.weight", 3)),
    "S": (("temporal2integration_nets.0.cls_token", 2), ("adapooling_nets.0.positional_embedding", 1)),
    "alpha": (("temporal2integration_nets.0.linear_fuse.weight", 2),),
    "D": (("input_linears.0.weight", 1), ("proj_spatial_cls_token.weight", 1)),
    "E": (("proj", 1),),
}
_PER_LAYER = ("input_linears", "temporal_nets", "integration_nets")  # one entry per DiST layer


def infer_config(shapes: Mapping[str, Shape], source: str, layers: tuple[int, ...] | None = None) -> DistConfig:
    """All sizes of the network, from the shapes of its tensors.

    Args:
        shapes: by current names without `dist_net.`.
        source: name of the file in error messages.
        layers: backbone blocks that the network reads. None: the first ones, one per DiST layer; correct if the
          backbone has no other blocks.

    Raises:
        UserError: an incomplete network, or another number of `layers`.
    """
    counts = {name: _count(shapes, name) for name in (*_PER_LAYER, "adapooling_nets")}
    num_layers = max(counts[name] for name in _PER_LAYER)
    sizes = {symbol: table.infer_size(shapes, *axes_of_size) for symbol, axes_of_size in _SIZES.items()}
    missing = [f"{DIST_PREFIX}{_SIZES[symbol][0][0]}" for symbol, size in sizes.items() if size is None]
    missing += [f"{DIST_PREFIX}{name}.0" for name, count in counts.items() if not count]
    if missing:
        raise UserError(f"{source}: incomplete DiST network, missing: {', '.join(missing)}")
    if sizes["C"] % 64:
        raise UserError(f"{source}: integration width {sizes['C']} ({DIST_PREFIX}proj), must be a multiple of 64")
    if layers is not None and len(layers) != num_layers:
        raise UserError(f"{source}: has {num_layers} layers, but --layers lists {len(layers)} backbone blocks")
    return DistConfig(
        num_frames=sizes["S"] * sizes["alpha"],
        alpha=sizes["alpha"],
        layers=tuple(range(num_layers)) if layers is None else tuple(layers),
        patch_size=sizes["patch"],
        backbone_width=sizes["D"],
        embed_dim=sizes["E"],
        integration_width=sizes["C"],
        temporal_width=sizes["M"],
        num_pooling_layers=counts["adapooling_nets"],
    )


def _count(names: Iterable[str], prefix: str) -> int:
    numbers = (re.match(rf"{prefix}\.(\d+)\.", name) for name in names)
    return 1 + max((int(match[1]) for match in numbers if match), default=-1)


def params_from_published(
    tensors: Mapping[str, np.ndarray | checkpoint_files.Tensor], source: str, layers: tuple[int, ...] | None = None
) -> tuple[DistConfig, dict]:
    """The DiST network from its tensors.

    Args:
        tensors: by current names without `dist_net.`.
        source: name of the file in error messages.
        layers: see `infer_config`.

    Returns:
        Its sizes, and the parameters of `DistNetwork` (NumPy, in the dtype of the file).

    Raises:
        UserError: tensors that are missing, unknown or of wrong shape.
    """
    file_shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    config = infer_config(file_shapes, f"{source} ({DIST_PREFIX}*)", layers)
    shapes = param_shapes(config)
    table.check(TABLE, shapes, file_shapes, f"{source} ({DIST_PREFIX}*)")
    return config, table.unflatten(dict(table.to_ours(TABLE, lambda name: np.asarray(tensors[name]), shapes)))


def to_published(params: dict, clip_tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The published state dict; the published PyTorch code loads it with strict=True.

    Args:
        params: of the DiST network; their dtype does not change.
        clip_tensors: of CLIP, by OpenAI's names (`weights.clip.to_openai`).
    """
    leaves = {path: np.asarray(leaf) for path, leaf in table.flatten(params).items()}
    tensors = {DIST_PREFIX + name: tensor for name, tensor in table.to_theirs(TABLE, leaves)}
    return {PREFIX + name: np.asarray(tensor, order="C") for name, tensor in (tensors | dict(clip_tensors)).items()}


def read(
    path: Path, layers: tuple[int, ...] | None = None
) -> tuple[DistConfig, dict, dict[str, checkpoint_files.Tensor]]:
    """Reads a published file; see `params_from_published` for the arguments and errors.

    Returns:
        The sizes and parameters of the DiST network, and the tensors of CLIP by OpenAI's names, which are not read yet
        (empty if the file has only the network).
    """
    tensors = checkpoint_files.open_tensors(path)
    dist_names, clip_names = split(tensors, str(path))
    if not dist_names:
        raise UserError(f"{path} contains no DiST network ({DIST_PREFIX}*); use --clip for CLIP weights")
    dist_tensors = {current: tensors[name] for current, name in dist_names.items()}
    config, params = params_from_published(dist_tensors, str(path), layers)
    return config, params, {current: tensors[name] for current, name in clip_names.items()}
