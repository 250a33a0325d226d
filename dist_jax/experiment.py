"""Builds the constant parts of a run from its configuration: class names, frozen backbone, text features, model."""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from dist_jax.data import sources
from dist_jax.distributed import sharding
from dist_jax.errors import UserError
from dist_jax.models.dist_network import DistConfig
from dist_jax.models.networks import NETWORKS
from dist_jax.models.video_model import VideoModel
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import model_files
from dist_jax.weights.openai_sizes import ClipSettings
from dist_jax.workdir.run_metadata import RunMetadata


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a run that training does not change."""

    config: ml_collections.FrozenConfigDict
    mesh: Mesh
    class_names: list[str]  # K names
    model: VideoModel
    frozen: dict  # {"vision", "logit_scale"}, placed on the mesh
    text_features: dict[str, jax.Array]  # of the class names, by label name; float32 [K, E], unit length, replicated
    backbone_weights: dict[str, str]  # their "name" and "fingerprint"
    backbone_activations: list[str]  # of the backbone's towers; the fingerprint does not include them

    def run_metadata(self, num_records: int) -> RunMetadata:
        """The metadata of a run of this experiment on `num_records` training records."""
        sizes = dataclasses.asdict(self.model.dist) | {"resolution": self.model.backbone.resolution}
        sizes |= {"layers": list(self.model.dist.layers), "activations": self.backbone_activations}
        settings = _tuples_to_lists(self.config.to_dict())
        weights = os.path.expanduser(settings["backbone"]["weights"])
        if os.path.exists(weights):  # absolute, so that the model loads from any folder; a hub id stays
            settings["backbone"]["weights"] = os.path.abspath(weights)
        return RunMetadata(settings, self.class_names, self.backbone_weights, sizes, num_records)


def build(config: ml_collections.ConfigDict, mesh: Mesh) -> Experiment:
    """Loads the backbone, encodes the class names and makes the model of `config`.

    Raises:
        UserError: invalid weights, class names or settings, or a combination that does not fit.
    """
    class_names = sources.class_names(config.data)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    backbone_dtype = _dtype(config.backbone.dtype, jnp.float32 if on_cpu else jnp.bfloat16)

    def place(name: str, array: np.ndarray) -> jax.Array:
        # The text tower runs once and stays in float32, as in dist_jax.load.
        array = np.asarray(array).astype(backbone_dtype if name.startswith("vision/") else np.float32)
        return sharding.place(array, sharding.leaf_sharding(mesh, name, array.shape))

    settings = ClipSettings.from_config(config.backbone)
    clip_model = clip_weights.load(
        config.backbone.weights, resolution=config.data.resolution, place=place, settings=settings
    )
    text_features = jax.device_put(clip_model.encode_texts(class_names), sharding.replicated(mesh))
    backbone = clip_model.backbone(backbone_dtype)
    layers = tuple(config.backbone.layers) or tuple(range(backbone.num_layers))
    if layers[-1] >= backbone.num_layers:
        raise UserError(f"backbone.layers={layers}: {clip_model.name} has blocks 0 to {backbone.num_layers - 1}")
    # Drop the blocks after the last one that is read, to save memory. Plain CLIP logits need all blocks.
    num_layers = backbone.num_layers if config.eval.zero_shot_weight > 0 else layers[-1] + 1
    frozen = {name: clip_model.params[name] for name in ("vision", "logit_scale")}
    backbone, frozen = backbone.first_layers(frozen, num_layers)
    dist = DistConfig(
        num_frames=config.model.num_frames,
        alpha=config.model.alpha,
        layers=layers,
        patch_size=backbone.patch_size,
        backbone_width=backbone.width,
        embed_dim=backbone.embed_dim,
        integration_width=config.model.integration_width,
        temporal_width=config.model.temporal_width,
        num_pooling_layers=config.model.num_pooling_layers,
    )
    if config.model.network not in NETWORKS:
        raise UserError(f"model.network={config.model.network!r}: must be one of {', '.join(NETWORKS)}")
    dtype = _dtype(config.model.dtype, backbone_dtype)
    return Experiment(
        config=ml_collections.FrozenConfigDict(config),
        mesh=mesh,
        class_names=class_names,
        model=VideoModel(backbone, dist, dtype, config.model.remat, config.model.network),
        frozen=frozen,
        text_features={config.data.label_key: text_features},
        backbone_weights={"name": clip_model.name, "fingerprint": clip_model.fingerprint},
        backbone_activations=model_files.activations(clip_model),
    )


def check_flip_labels(config: ml_collections.ConfigDict, class_names: list[str]) -> None:
    """Raises UserError if augment.hflip_label_pairs names a class that does not exist."""
    pairs = tuple(config.augment.hflip_label_pairs)
    if max(pairs, default=0) >= len(class_names):
        raise UserError(
            f"augment.hflip_label_pairs={pairs}: there are {len(class_names)} classes, numbered from 0; use pairs of "
            "these, or none: --config.augment.hflip_label_pairs=()"
        )


def _dtype(name: str, auto: jnp.dtype) -> jnp.dtype:
    return auto if name == "auto" else jnp.dtype(name)


def _tuples_to_lists(value: Any) -> Any:
    """The value as JSON returns it."""
    if isinstance(value, dict):
        return {key: _tuples_to_lists(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
