"""Prepares the training loop: the initial state, the compiled step, the batches on the devices."""

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jax.stages import Compiled

from dist_jax.config import mix_group
from dist_jax.data import pipeline
from dist_jax.data.bad_records import BadRecords
from dist_jax.data.prefetch import Prefetcher
from dist_jax.data.source import Source
from dist_jax.distributed import sharding
from dist_jax.experiment import Experiment
from dist_jax.models.layers import matmul_precision
from dist_jax.training import memory, mixing
from dist_jax.training.optimizer import make_optimizer
from dist_jax.training.step_plan import StepPlan
from dist_jax.training.train_step import TrainStep
from dist_jax.typing import PyTree
from dist_jax.weights.init_from import load_initial
from dist_jax.workdir.checkpoints import Checkpoints
from dist_jax.workdir.run_metadata import RunMetadata, check_can_resume, write_run_metadata
from dist_jax.workdir.train_state import TrainState


def make_train_step(experiment: Experiment, plan: StepPlan) -> TrainStep:
    """The training step of an experiment."""
    return TrainStep(
        experiment.model,
        make_optimizer(experiment.config.optimizer),
        plan.lr_schedule,
        experiment.config,
        sharding.replicated(experiment.mesh),
    )


def initial_state(
    workdir: str, metadata: RunMetadata, train_step: TrainStep, checkpoints: Checkpoints, experiment: Experiment
) -> TrainState:
    """The initial training state, placed on the mesh. Writes run.json.

    It is the newest checkpoint, or else has the parameters of config.init_from, or else new parameters.

    Raises:
        UserError: the checkpoints belong to a different run, or the weights of init_from to a different network.
    """
    if checkpoints.latest is not None:  # without a checkpoint, the settings may change
        check_can_resume(workdir, metadata)
    if jax.process_index() == 0:
        write_run_metadata(workdir, metadata)
    target = abstract_state(train_step, experiment.mesh)
    if checkpoints.latest is not None:
        return checkpoints.restore(checkpoints.latest, target)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
    weights = train_step.config.init_from
    if weights:
        params = load_initial(weights, train_step.model.dist, experiment.backbone_weights, same_backbone=False)
        params = sharding.place_tree(experiment.mesh, params)
        return jax.jit(train_step.state_from, out_shardings=shardings)(params)
    return jax.jit(train_step.init, out_shardings=shardings)(jax.random.key(train_step.config.seed))


def abstract_state(train_step: TrainStep, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state; allocates nothing."""
    shapes = jax.eval_shape(train_step.init, jax.random.key(0))
    shardings = sharding.tree_shardings(mesh, shapes)
    return jax.tree.map(
        lambda leaf, leaf_sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf_sharding),
        shapes,
        shardings,
    )


def compile_step(train_step: TrainStep, experiment: Experiment, state: TrainState) -> Compiled:
    """Compiles the training step. The leaves of `state` are arrays, or ShapeDtypeStructs with shardings.

    Raises:
        memory.TooLarge: the compiler reports that the step does not fit into memory.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    out_shardings = (shardings, sharding.replicated(experiment.mesh))
    step = jax.jit(train_step.__call__, donate_argnums=0, out_shardings=out_shardings)
    batch = batch_shapes(train_step, experiment.mesh)
    with matmul_precision(train_step.model.dtype), memory.raise_too_large():
        return step.lower(state, experiment.frozen, experiment.text_features, batch).compile()


def batch_shapes(train_step: TrainStep, mesh: Mesh) -> dict[str, PyTree]:
    """Shapes and shardings of a batch: "video" uint8 [B, T, H, W, 3]; "labels", int32 [B] by label name."""
    config, size = train_step.config, train_step.model.backbone.resolution
    batch = sharding.batch_sharding(mesh)
    shape = (config.batch_size, config.model.num_frames, size, size, 3)
    label = jax.ShapeDtypeStruct(shape[:1], np.int32, sharding=batch)
    return {
        "video": jax.ShapeDtypeStruct(shape, np.uint8, sharding=batch),
        "labels": {name: label for name in label_names(config)},
    }


def label_names(config: ml_collections.FrozenConfigDict) -> tuple[str, ...]:
    """Names of the labels that a run learns."""
    return (config.data.label_key,)


def device_batches(
    train_step: TrainStep, mesh: Mesh, source: Source, first_step: int, bad_records: BadRecords
) -> Prefetcher:
    """Batches on the devices from step `first_step` on. This host reads only the rows of its own devices.

    Yields (batch, bad records up to this batch -> kind). The second depends only on the data and the step, although
    later batches are already being read.
    """
    config = train_step.config
    order = mixing.order(config.batch_size, mix_group(config))
    rows = order[sharding.local_rows(mesh, config.batch_size)]
    shapes = batch_shapes(train_step, mesh)
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
