"""The model of a configuration and the other inputs of a training step that do not change."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from dist_jax.distributed import sharding
from dist_jax.errors import UserError
from dist_jax.models.backbones.base import Backbone
from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.backbones.clip_vision import VisionConfig
from dist_jax.models.dist_network import DistConfig
from dist_jax.models.networks import NETWORKS
from dist_jax.models.video_model import VideoModel
from dist_jax.weights import frozen
from dist_jax.weights.clip_sizes import vision_shapes


@dataclasses.dataclass(frozen=True)
class ModelSetup:
    """The model and the constant inputs of a training step.

    The leaves of `frozen` and `text_features` are arrays on the mesh. ShapeDtypeStructs with shardings are sufficient
    to compile.
    """

    config: ml_collections.FrozenConfigDict
    mesh: Mesh
    model: VideoModel
    frozen: dict  # {"vision", "logit_scale"}
    text_features: dict  # of the class names, by label name; float32 [K, E], unit length, replicated

    @property
    def num_classes(self) -> dict[str, int]:
        """K of each label, by label name."""
        return {name: features.shape[0] for name, features in self.text_features.items()}


def abstract_setup(config: ml_collections.ConfigDict, mesh: Mesh, vision: VisionConfig, num_classes: int) -> ModelSetup:
    """The setup of `config` without weights: shapes, dtypes and shardings.

    Args:
        config: validated.
        mesh: of devices of this machine, or of a topology that is only compiled for.
        vision: sizes of the complete image tower; config.data.resolution replaces its resolution.
        num_classes: K.

    Raises:
        UserError: settings that do not fit each other, the backbone or the mesh.
    """
    dtype = backbone_dtype(config, mesh)
    resolution = config.data.resolution or vision.resolution
    if resolution % vision.patch_size:
        raise UserError(
            f"data.resolution={resolution}: must be a multiple of {vision.patch_size}, the patch size of "
            f"{config.backbone.weights}"
        )
    num_layers = num_backbone_layers(config, vision.num_layers)
    vision = dataclasses.replace(vision, resolution=resolution, num_layers=num_layers)

    quantize = config.backbone.quantize
    shapes = {"vision": vision_shapes(vision), "logit_scale": jax.ShapeDtypeStruct((), jnp.float32)}
    abstract_frozen = jax.tree_util.tree_map_with_path(
        lambda path, leaf: frozen.abstract(mesh, dtype, quantize, sharding.path_name(path), leaf.shape), shapes
    )
    text = jax.ShapeDtypeStruct((num_classes, vision.embed_dim), jnp.float32, sharding=sharding.replicated(mesh))
    return ModelSetup(
        config=ml_collections.FrozenConfigDict(config),
        mesh=mesh,
        model=make_model(config, mesh, ClipBackbone(vision, None, dtype, quantize), dtype),
        frozen=abstract_frozen,
        text_features={config.data.label_key: text},
    )


def backbone_dtype(config: ml_collections.ConfigDict, mesh: Mesh) -> jnp.dtype:
    """The dtype of the frozen parameters and of their computation."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return _dtype(config.backbone.dtype, jnp.float32 if on_cpu else jnp.bfloat16)


def num_backbone_layers(config: ml_collections.ConfigDict, num_layers: int) -> int:
    """Blocks of the backbone that a run needs, counted from the first, of its `num_layers` blocks.

    Raises:
        UserError: config.backbone.layers names a block that does not exist.
    """
    layers = _selected(config, num_layers)
    if layers[-1] >= num_layers:
        raise UserError(f"backbone.layers={layers}: {config.backbone.weights} has blocks 0 to {num_layers - 1}")
    # The blocks after the last one that is read are not needed, except for plain CLIP logits.
    return num_layers if config.eval.zero_shot_weight > 0 else layers[-1] + 1


def make_model(config: ml_collections.ConfigDict, mesh: Mesh, backbone: Backbone, dtype: jnp.dtype) -> VideoModel:
    """The model of `config` on a backbone with `num_backbone_layers` blocks; `dtype` is that of the backbone.

    Raises:
        UserError: unknown network.
    """
    if config.model.network not in NETWORKS:
        raise UserError(f"model.network={config.model.network!r}: must be one of {', '.join(NETWORKS)}")
    dist = DistConfig(
        num_frames=config.model.num_frames,
        alpha=config.model.alpha,
        layers=_selected(config, backbone.num_layers),
        patch_size=backbone.patch_size,
        backbone_width=backbone.width,
        embed_dim=backbone.embed_dim,
        integration_width=config.model.integration_width,
        temporal_width=config.model.temporal_width,
        num_pooling_layers=config.model.num_pooling_layers,
    )
    return VideoModel(
        backbone=backbone,
        dist=dist,
        dtype=_dtype(config.model.dtype, dtype),
        remat=config.model.remat,
        network_name=config.model.network,
        mesh=mesh,
    )


def _selected(config: ml_collections.ConfigDict, num_layers: int) -> tuple[int, ...]:
    return tuple(config.backbone.layers) or tuple(range(num_layers))


def _dtype(name: str, auto: jnp.dtype) -> jnp.dtype:
    return auto if name == "auto" else jnp.dtype(name)
