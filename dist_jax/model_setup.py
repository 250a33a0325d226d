"""The model of a configuration and the other inputs of a training step that do not change."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from dist_jax.config import label_names
from dist_jax.distributed import sharding
from dist_jax.errors import UserError
from dist_jax.models.backbones.base import Backbone
from dist_jax.models.backbones.vit import VitBackbone
from dist_jax.models.dist_network import DistConfig
from dist_jax.models.networks import NETWORKS, NO_NETWORK, has_own_classes, reads_last_layer
from dist_jax.models.video_model import VideoModel
from dist_jax.weights import frozen


@dataclasses.dataclass(frozen=True)
class ModelSetup:
    """The model and the constant inputs of a training step.

    The leaves of `frozen` and `text_features` are arrays on the mesh. ShapeDtypeStructs with shardings are sufficient
    to compile.
    """

    config: ml_collections.FrozenConfigDict
    mesh: Mesh
    model: VideoModel
    frozen: dict  # of the backbone, without "text"
    text_features: dict  # of the class names, by label name; float32 [K, E], unit length, replicated

    @property
    def num_classes(self) -> dict[str, int]:
        """K of each label, by label name."""
        return {name: features.shape[0] for name, features in self.text_features.items()}


def abstract_setup(
    config: ml_collections.ConfigDict, mesh: Mesh, backbone: VitBackbone, num_classes: Mapping[str, int]
) -> ModelSetup:
    """The setup of `config` without weights: shapes, dtypes and shardings.

    Args:
        config: validated.
        mesh: of devices of this machine, or of a topology that is only compiled for.
        backbone: with the complete image tower, without text tower; the settings of `config` replace its resolution,
          dtype and quantisation.
        num_classes: K of each label, by label name.

    Raises:
        UserError: settings that do not fit each other, the backbone or the mesh.
    """
    dtype = backbone_dtype(config, mesh)
    resolution = config.data.resolution or backbone.resolution
    if resolution % backbone.patch_size:
        raise UserError(
            f"data.resolution={resolution}: must be a multiple of {backbone.patch_size}, the patch size of "
            f"{config.backbone.weights}"
        )
    num_layers = num_backbone_layers(config, backbone.num_layers)
    vision = dataclasses.replace(backbone.vision, resolution=resolution, num_layers=num_layers)
    quantize = config.backbone.quantize
    backbone = dataclasses.replace(backbone, vision=vision, dtype=dtype, quantize=quantize)
    abstract_frozen = jax.tree_util.tree_map_with_path(
        lambda path, leaf: frozen.abstract(mesh, dtype, quantize, sharding.path_name(path), leaf.shape),
        backbone.param_shapes(),
    )
    text_features = {
        name: jax.ShapeDtypeStruct((k, backbone.embed_dim), jnp.float32, sharding=sharding.replicated(mesh))
        for name, k in num_classes.items()
    }
    return ModelSetup(
        config=ml_collections.FrozenConfigDict(config),
        mesh=mesh,
        model=make_model(config, mesh, backbone, dtype, num_classes),
        frozen=abstract_frozen,
        text_features=text_features,
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
    is_plain = config.model.network == NO_NETWORK or config.eval.zero_shot_weight > 0
    return num_layers if is_plain else layers[-1] + 1


def make_model(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    backbone: Backbone,
    dtype: jnp.dtype,
    num_classes: Mapping[str, int],
) -> VideoModel:
    """The model of `config` on a backbone with `num_backbone_layers` blocks.

    Args:
        config: validated.
        mesh: devices that share the clips of a batch.
        backbone: from `num_backbone_layers` blocks.
        dtype: of the backbone.
        num_classes: K of each label, by label name.

    Raises:
        UserError: unknown network, or a network with its own classifier and a zero-shot weight.
    """
    network = config.model.network
    if network != NO_NETWORK and network not in NETWORKS:
        raise UserError(f"model.network={network!r}: must be one of {', '.join([*NETWORKS, NO_NETWORK])}")
    if has_own_classes(network) and config.eval.zero_shot_weight > 0:
        raise UserError(
            f"model.network={network} has its own classifier, whose logits cannot be mixed with those of plain CLIP "
            f"(eval.zero_shot_weight={config.eval.zero_shot_weight}); set eval.zero_shot_weight=0"
        )
    layers = _selected(config, backbone.num_layers)
    labels = label_names(config)
    dist = DistConfig(
        num_frames=config.model.num_frames,
        alpha=config.model.alpha,
        layers=layers[-1:] if reads_last_layer(network) else layers,
        patch_size=backbone.patch_size,
        backbone_width=backbone.width,
        embed_dim=backbone.embed_dim,
        integration_width=config.model.integration_width,
        temporal_width=config.model.temporal_width,
        num_pooling_layers=config.model.num_pooling_layers,
        num_labels=len(labels),
        num_classes=sum(num_classes.values()) if has_own_classes(network) else 0,
    )
    return VideoModel(
        backbone=backbone,
        dist=dist,
        dtype=_dtype(config.model.dtype, dtype),
        remat=config.model.remat,
        network_name=network,
        mesh=mesh,
        label_names=labels,
    )


def _selected(config: ml_collections.ConfigDict, num_layers: int) -> tuple[int, ...]:
    return tuple(config.backbone.layers) or tuple(range(num_layers))


def _dtype(name: str, auto: jnp.dtype) -> jnp.dtype:
    return auto if name == "auto" else jnp.dtype(name)
