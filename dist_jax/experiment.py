"""Builds the constant parts of a run from its configuration: class names, frozen backbone, text features, model."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from dist_jax.data import sources
from dist_jax.distributed import sharding
from dist_jax.errors import UserError
from dist_jax.model_setup import ModelSetup, backbone_dtype, make_model, num_backbone_layers
from dist_jax.text.prompt_templates import encode_classes, read_templates
from dist_jax.weights import backbones, model_files
from dist_jax.weights import frozen as frozen_weights
from dist_jax.weights.openai_sizes import ClipSettings
from dist_jax.workdir.run_metadata import RunMetadata


@dataclasses.dataclass(frozen=True)
class Experiment(ModelSetup):
    """The parts of a run that training does not change. The arrays of the setup are on the mesh."""

    class_names: dict[str, list[str]]  # K names of each label, by label name
    prompt_templates: list[str]  # e.g. "a video of {}"; empty: a text is the class name
    backbone_weights: dict[str, str]  # their "name" and "fingerprint"
    backbone_activations: list[str]  # of the backbone's towers; the fingerprint does not include them

    def run_metadata(self, num_records: int, clip_seconds: float | None = None) -> RunMetadata:
        """The metadata of a run of this experiment on `num_records` training records of this mean length."""
        sizes = dataclasses.asdict(self.model.dist) | {"resolution": self.model.backbone.resolution}
        sizes |= {"layers": list(self.model.dist.layers), "activations": self.backbone_activations}
        sizes |= {"network": self.model.network_name, "num_prefix_tokens": self.model.backbone.num_prefix_tokens}
        settings = _tuples_to_lists(self.config.to_dict())
        weights = os.path.expanduser(settings["backbone"]["weights"])
        if os.path.exists(weights):  # absolute, so that the model loads from any folder; a hub id stays
            settings["backbone"]["weights"] = os.path.abspath(weights)
        return RunMetadata(
            settings,
            self.class_names,
            self.backbone_weights,
            sizes,
            num_records,
            self.prompt_templates,
            clip_seconds=clip_seconds,
        )


def build(config: ml_collections.ConfigDict, mesh: Mesh) -> Experiment:
    """Loads the backbone, encodes the class names and makes the model of `config`.

    Raises:
        UserError: invalid weights, class names or settings, or a combination that does not fit.
    """
    class_names = sources.class_names(config.data)
    templates = read_templates(config.data.prompt_templates_file)
    dtype, quantize = backbone_dtype(config, mesh), config.backbone.quantize
    backbone_model = backbones.load(
        config.backbone.weights,
        resolution=config.data.resolution,
        place=partial(frozen_weights.place, mesh, dtype, quantize),
        settings=ClipSettings.from_config(config.backbone),
    )
    text_features = {
        name: jax.device_put(encode_classes(backbone_model.encode_texts, names, templates), sharding.replicated(mesh))
        for name, names in class_names.items()
    }
    frozen = {name: part for name, part in backbone_model.params.items() if name != "text"}
    backbone = backbone_model.backbone(dtype, quantize)
    backbone, frozen = backbone.first_layers(frozen, num_backbone_layers(config, backbone.num_layers))
    return Experiment(
        config=ml_collections.FrozenConfigDict(config),
        mesh=mesh,
        class_names=class_names,
        prompt_templates=templates,
        model=make_model(config, mesh, backbone, dtype, {name: len(names) for name, names in class_names.items()}),
        frozen=frozen,
        text_features=text_features,
        backbone_weights={"name": backbone_model.name, "fingerprint": backbone_model.fingerprint},
        backbone_activations=model_files.activations(backbone_model),
    )


def check_flip_labels(config: ml_collections.ConfigDict, class_names: Mapping[str, Sequence[str]]) -> None:
    """Raises UserError if augment.hflip_label_pairs names a class that does not exist, or if there are two labels."""
    pairs = tuple(config.augment.hflip_label_pairs)
    if not pairs:
        return
    if len(class_names) > 1:
        raise UserError(
            f"augment.hflip_label_pairs={pairs}: there are the labels {' and '.join(class_names)}, and no verb or noun "
            "of EPIC-KITCHENS names a side; use --config.augment.hflip_label_pairs=()"
        )
    (names,) = class_names.values()
    if max(pairs) >= len(names):
        raise UserError(
            f"augment.hflip_label_pairs={pairs}: there are {len(names)} classes, numbered from 0; use pairs of these, "
            "or none: --config.augment.hflip_label_pairs=()"
        )


def _tuples_to_lists(value: Any) -> Any:
    """The value as JSON returns it."""
    if isinstance(value, dict):
        return {key: _tuples_to_lists(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
