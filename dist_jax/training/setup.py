"""Prepares the training loop: the initial state, the batches on the devices."""

import jax
from jax.sharding import Mesh

from dist_jax.config import mix_group
from dist_jax.data import pipeline
from dist_jax.data.bad_records import BadRecords
from dist_jax.data.prefetch import Prefetcher
from dist_jax.data.source import Source
from dist_jax.distributed import sharding
from dist_jax.experiment import Experiment
from dist_jax.training import mixing
from dist_jax.training.compiled_step import abstract_state, batch_shapes
from dist_jax.training.train_step import TrainStep
from dist_jax.typing import PyTree
from dist_jax.weights.init_from import load_initial
from dist_jax.workdir import text_feature_cache
from dist_jax.workdir.checkpoints import Checkpoints
from dist_jax.workdir.run_metadata import RunMetadata, check_can_resume, write_run_metadata
from dist_jax.workdir.train_state import TrainState


def initial_state(
    workdir: str, metadata: RunMetadata, train_step: TrainStep, checkpoints: Checkpoints, experiment: Experiment
) -> TrainState:
    """The initial training state, placed on the mesh. Writes run.json and text_features.npz.

    It is the newest checkpoint, or else has the parameters of config.init_from, or else new parameters.

    Raises:
        UserError: the checkpoints belong to a different run, or the weights of init_from to a different network.
    """
    if checkpoints.latest is not None:  # without a checkpoint, the settings may change
        check_can_resume(workdir, metadata)
    if jax.process_index() == 0:
        write_run_metadata(workdir, metadata)
        text_feature_cache.write(workdir, metadata, experiment.text_features)
    target = abstract_state(train_step, experiment.mesh)
    if checkpoints.latest is not None:
        return checkpoints.restore(checkpoints.latest, target)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
    weights = train_step.config.init_from
    if weights:
        model = train_step.model
        params = load_initial(weights, model.network_name, model.dist, experiment.backbone_weights, same_backbone=False)
        params = sharding.place_tree(experiment.mesh, params)
        return jax.jit(train_step.state_from, out_shardings=shardings)(params)
    return jax.jit(train_step.init, out_shardings=shardings)(jax.random.key(train_step.config.seed))


def device_batches(
    train_step: TrainStep, mesh: Mesh, source: Source, first_step: int, bad_records: BadRecords
) -> Prefetcher:
    """Batches on the devices from step `first_step` on. This host reads only the rows of its own devices.

    Yields (batch, bad records up to this batch -> kind). The second depends only on the data and the step, although
    later batches are already being read. It contains the records that this host reads, not those of other hosts.
    """
    config = train_step.config
    order = mixing.order(config.batch_size, mix_group(config))
    rows = order[sharding.local_rows(mesh, config.batch_size)]
    shapes = batch_shapes(train_step, mesh, source.num_classes)
    batches = pipeline.train_batches(
        config, source, first_step, rows, train_step.model.backbone.resolution, bad_records
    )

    def put(batch: dict[str, PyTree]) -> tuple[dict[str, PyTree], dict[int, str]]:
        arrays = {name: batch[name] for name in shapes}
        placed = jax.tree.map(
            lambda like, rows: jax.make_array_from_process_local_data(like.sharding, rows, like.shape), shapes, arrays
        )
        return placed, bad_records.kinds

    return Prefetcher(batches, put, config.data.prefetch)
