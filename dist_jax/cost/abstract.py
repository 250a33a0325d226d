"""The setup of a configuration for a TPU slice or this machine, without weights and data."""

from collections.abc import Mapping
from pathlib import Path

import ml_collections
from jax.sharding import Mesh

from dist_jax import hub
from dist_jax.config import label_names
from dist_jax.cost import datasets
from dist_jax.distributed import sharding
from dist_jax.errors import UserError
from dist_jax.model_setup import ModelSetup, abstract_setup
from dist_jax.models.backbones.vit import VitBackbone
from dist_jax.weights.published_sizes import PUBLISHED

ASSUMED_CLASSES = 400  # for data that is not in datasets.DATASETS; the cost of the text features is negligible


def setup(config: ml_collections.ConfigDict, mesh: Mesh, num_classes: Mapping[str, int] | None = None) -> ModelSetup:
    """The setup of `config` on a mesh. Reads no weights and no data; downloads nothing.

    Args:
        config: validated.
        mesh: of devices of this machine, or of a topology that is only compiled for.
        num_classes: K of each label, by label name. Default: that of the public data set in config.data.train.

    Raises:
        UserError: a batch size that the mesh does not divide, a backbone of unknown size, or settings that do not fit
          each other.
    """
    sharding.check_batch(mesh, "batch_size", config.batch_size, config.grad_accum_steps)
    if num_classes is None:
        dataset = datasets.find(config.data.train)
        num_classes = dict.fromkeys(label_names(config), dataset.num_classes if dataset else ASSUMED_CLASSES)
    return abstract_setup(config, mesh, image_tower(config.backbone), num_classes)


def image_tower(backbone: ml_collections.ConfigDict) -> VitBackbone:
    """The backbone of config.backbone without text tower, from a table or from local files.

    Raises:
        UserError: it is neither in the table nor local.
    """
    weights = backbone.weights
    if weights in PUBLISHED:
        return PUBLISHED[weights]
    if not Path(weights).expanduser().exists():
        known = ", ".join(PUBLISHED)
        kind = "its sizes are not known" if hub.is_id(weights) else "no such file or directory"
        raise UserError(f"backbone.weights={weights}: {kind}; use a local copy of the model, or one of {known}")
    from dist_jax.weights import backbones  # needs packages that read files
    from dist_jax.weights.openai_sizes import ClipSettings

    return backbones.image_tower(weights, ClipSettings.from_config(backbone))
