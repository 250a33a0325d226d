"""What a run is made of, built from its configuration: the classes, the frozen backbone, the texts, the network."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from dist_jax.data import sources
from dist_jax.distributed import sharding
from dist_jax.errors import UserError
from dist_jax.models.backbones.clip_vision import first_blocks
from dist_jax.models.dist_network import DistConfig
from dist_jax.models.video_model import VideoModel
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import model_files
from dist_jax.workdir.run_metadata import RunMetadata


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything of a run that training does not change."""

    config: ml_collections.FrozenConfigDict
    mesh: Mesh
    classes: list[str]  # K names
    model: VideoModel
    frozen: dict  # {"vision", "logit_scale"}, placed on the mesh
    text: jax.Array  # float32 [K, E], unit length, replicated
    backbone: dict[str, str]  # name and fingerprint
    activations: list[str]  # of the backbone's towers, which the fingerprint does not tell

    def run(self, records: int) -> RunMetadata:
        """What the workdir remembers of this experiment."""
        sizes = dataclasses.asdict(self.model.dist) | {"resolution": self.model.vision.resolution}
        sizes |= {"layers": list(self.model.dist.layers), "activations": self.activations}
        settings = _plain(self.config.to_dict())
        weights = os.path.expanduser(settings["backbone"]["weights"])
        if os.path.exists(weights):  # no hub id; wherever the model is loaded from, it is found again
            settings["backbone"]["weights"] = os.path.abspath(weights)
        return RunMetadata(settings, self.classes, self.backbone, sizes, records)


def build(config: ml_collections.ConfigDict, mesh: Mesh) -> Experiment:
    """Loads the backbone and the class texts and makes the model of `config`.

    Raises:
        UserError: if weights, labels or settings do not fit together.
    """
    classes = sources.class_names(config.data)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    clip_dtype = _dtype(config.backbone.dtype, jnp.float32 if on_cpu else jnp.bfloat16)

    def place(name: str, array: np.ndarray) -> jax.Array:
        # The text tower runs once and stays in float32, as it does wherever a trained model is loaded.
        array = np.asarray(array).astype(clip_dtype if name.startswith("vision/") else np.float32)
        return sharding.place(array, sharding.leaf_sharding(mesh, name, array.shape))

    clip = clip_weights.load(config.backbone.weights, resolution=config.data.resolution, place=place)
    text = jax.device_put(clip.encode_texts(classes), sharding.replicated(mesh))
    selected = tuple(config.backbone.layers) or tuple(range(clip.vision.num_layers))
    if selected[-1] >= clip.vision.num_layers:
        raise UserError(f"backbone.layers={selected}: {clip.name} has blocks 0 to {clip.vision.num_layers - 1}")
    read = clip.vision.num_layers if config.eval.zero_shot_weight > 0 else selected[-1] + 1
    vision, tower = first_blocks(clip.vision, clip.params["vision"], read)
    dist = DistConfig(
        num_frames=config.model.num_frames,
        alpha=config.model.alpha,
        layers=selected,
        patch_size=vision.patch_size,
        backbone_width=vision.width,
        embed_dim=vision.embed_dim,
        integration_width=config.model.integration_width,
        temporal_width=config.model.temporal_width,
        num_pooling_layers=config.model.num_pooling_layers,
    )
    dtype = _dtype(config.model.dtype, clip_dtype)
    model = VideoModel(vision, dist, clip_dtype, dtype, config.model.remat)
    frozen = {"vision": tower, "logit_scale": clip.params["logit_scale"]}
    backbone = {"name": clip.name, "fingerprint": clip.fingerprint}
    activations = model_files.activations(clip)
    return Experiment(
        ml_collections.FrozenConfigDict(config), mesh, classes, model, frozen, text, backbone, activations
    )


def check_flips(config: ml_collections.ConfigDict, classes: list[str]) -> None:
    """Raises UserError if augment.hflip_label_pairs, which training uses, names a class that there is not."""
    pairs = tuple(config.augment.hflip_label_pairs)
    if max(pairs, default=0) >= len(classes):
        raise UserError(
            f"augment.hflip_label_pairs={pairs}: there are {len(classes)} classes, numbered from 0; name pairs of "
            "these, or none by --config.augment.hflip_label_pairs=()"
        )


def _dtype(name: str, auto: jnp.dtype) -> jnp.dtype:
    return auto if name == "auto" else jnp.dtype(name)


def _plain(value: object) -> object:
    """Tuples become lists, as JSON gives them back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
