"""--find_batch: searches the largest batch_size whose training step fits into device memory. Runs no training step."""

import ml_collections
from jax.sharding import Mesh

from dist_jax.data import sources
from dist_jax.errors import UserError
from dist_jax.model_setup import abstract_setup
from dist_jax.models.networks import NO_NETWORK
from dist_jax.training import batch_search, memory
from dist_jax.weights import backbones
from dist_jax.weights.openai_sizes import ClipSettings


def find_batch(config: ml_collections.ConfigDict, mesh: Mesh) -> int:
    """Prints the memory of each tried batch size, and returns the largest that fits on this machine's devices.

    Raises UserError if the network has no parameters to train.
    """
    if config.model.network == NO_NETWORK:
        raise UserError(f"model.network={NO_NETWORK}: --find_batch compiles a training step; use another network")
    backbone = backbones.image_tower(config.backbone.weights, ClipSettings.from_config(config.backbone))
    setup = abstract_setup(
        config, mesh, backbone, {name: len(names) for name, names in sources.class_names(config.data).items()}
    )
    return batch_search.search(setup, memory.device_limit())
