"""Builds the constant parts of a run from its configuration: class names, frozen backbone, text features, model."""

import dataclasses
import os
from functools import partial
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from dist_jax.data import sources
from dist_jax.distributed import sharding
from dist_jax.errors import UserError
from dist_jax.model_setup import ModelSetup, backbone_dtype, make_model, num_backbone_layers
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import frozen as frozen_weights
from dist_jax.weights import model_files
from dist_jax.weights.openai_sizes import ClipSettings
from dist_jax.workdir.run_metadata import RunMetadata


@dataclasses.dataclass(frozen=True)
class Experiment(ModelSetup):
    """The parts of a run that training does not change. The arrays of the setup are on the mesh."""

    class_names: list[str]  # K names
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
    dtype, quantize = backbone_dtype(config, mesh), config.backbone.quantize
    clip_model = clip_weights.load(
        config.backbone.weights,
        resolution=config.data.resolution,
        place=partial(frozen_weights.place, mesh, dtype, quantize),
        settings=ClipSettings.from_config(config.backbone),
    )
    text_features = jax.device_put(clip_model.encode_texts(class_names), sharding.replicated(mesh))
    frozen = {name: clip_model.params[name] for name in ("vision", "logit_scale")}
    backbone = clip_model.backbone(dtype, quantize)
    backbone, frozen = backbone.first_layers(frozen, num_backbone_layers(config, backbone.num_layers))
    return Experiment(
        config=ml_collections.FrozenConfigDict(config),
        mesh=mesh,
        class_names=class_names,
        model=make_model(config, mesh, backbone, dtype),
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


def _tuples_to_lists(value: Any) -> Any:
    """The value as JSON returns it."""
    if isinstance(value, dict):
        return {key: _tuples_to_lists(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
