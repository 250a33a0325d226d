"""The network of a finished run: parameters and operations, from the sizes in run.json. Reads no parameters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections

from dist_jax.cost import abstract, flops
from dist_jax.errors import UserError
from dist_jax.models.backbones.vit import VitBackbone
from dist_jax.models.dist_network import DistConfig, input_shapes
from dist_jax.models.networks import NETWORKS, NO_NETWORK
from dist_jax.models.video_model import VideoModel
from dist_jax.workdir.run_metadata import RunMetadata


def count_trainable(metadata: RunMetadata) -> int:
    """Trained parameters of a run.

    Raises:
        UserError: the network is not in NETWORKS, or run.json has not all of its sizes.
    """
    num_prefix_tokens = metadata.model.get("num_prefix_tokens", 1)  # older versions have only backbones with one
    params = _network_params(_network_name(metadata), _dist_config(metadata), _resolution(metadata), num_prefix_tokens)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def count_operations(metadata: RunMetadata) -> int:
    """Operations of the forward pass of one clip through the frozen backbone and the network, see `flops.count`.

    A multiply-add counts as two. The cosine with the text features is not included; it needs less than 0.01%.

    Raises:
        UserError: as `count_trainable`; or the sizes of the backbone are neither known nor in local files.
    """
    name, dist = _network_name(metadata), _dist_config(metadata)
    backbone = abstract.image_tower(ml_collections.ConfigDict(metadata.config["backbone"]))
    vision = dataclasses.replace(backbone.vision, resolution=_resolution(metadata))
    return forward_operations(name, dist, dataclasses.replace(backbone, vision=vision))


@functools.cache  # tracing takes seconds, and compared runs often have the same network
def forward_operations(name: str, dist: DistConfig, backbone: VitBackbone) -> int:
    """Operations of the forward pass of one clip, as `count_operations`, from the sizes of network and backbone."""
    model = VideoModel(backbone, dist, network_name=name)
    frozen = backbone.param_shapes()
    video = jax.ShapeDtypeStruct((1, dist.num_frames, backbone.resolution, backbone.resolution, 3), jnp.float32)
    if name == NO_NETWORK:
        return flops.count(jax.make_jaxpr(model.features)(frozen, video))
    params = _network_params(name, dist, backbone.resolution, backbone.num_prefix_tokens)
    return flops.count(jax.make_jaxpr(model.embed)(params, frozen, video))


@functools.cache
def _network_params(name: str, dist: DistConfig, resolution: int, num_prefix_tokens: int) -> dict:
    """The parameter tree of the network: ShapeDtypeStructs."""
    if name == NO_NETWORK:
        return {}
    num_tokens = num_prefix_tokens + (resolution // dist.patch_size) ** 2
    shapes = input_shapes(dist, num_tokens, resolution)
    return jax.eval_shape(NETWORKS[name](dist).init, jax.random.key(0), *shapes)["params"]


def _network_name(metadata: RunMetadata) -> str:
    name = metadata.config.get("model", {}).get("network")
    if name not in (*NETWORKS, NO_NETWORK):
        raise UserError(f"the network {name!r} is not in dist_jax.models.networks.NETWORKS")
    return name


def _dist_config(metadata: RunMetadata) -> DistConfig:
    names = [field.name for field in dataclasses.fields(DistConfig)]
    sizes = {name: metadata.model[name] for name in names if name in metadata.model}
    try:
        return DistConfig(**sizes | {"layers": tuple(sizes["layers"])})
    except TypeError as error:  # sizes without a default are missing
        raise UserError(f"run.json has not all sizes of the network ({error})") from error


def _resolution(metadata: RunMetadata) -> int:
    if "resolution" not in metadata.model:
        raise UserError("run.json has not all sizes of the network (resolution is missing)")
    return metadata.model["resolution"]
