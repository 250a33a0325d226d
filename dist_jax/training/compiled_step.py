"""The compiled training step, and the shapes and shardings of its arguments. Allocates no array."""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh
from jax.stages import Compiled, Traced

from dist_jax.distributed import sharding
from dist_jax.model_setup import ModelSetup
from dist_jax.models.layers import matmul_precision
from dist_jax.training import memory
from dist_jax.training.optimizer import make_optimizer
from dist_jax.training.train_step import TrainStep
from dist_jax.typing import PyTree
from dist_jax.workdir.train_state import TrainState


def make_train_step(setup: ModelSetup, lr_schedule: Callable[[jax.Array], jax.Array]) -> TrainStep:
    """The training step of a model. `lr_schedule`: completed updates -> learning rate, float32 []."""
    return TrainStep(
        setup.model, make_optimizer(setup.config.optimizer), lr_schedule, setup.config, sharding.replicated(setup.mesh)
    )


def abstract_state(train_step: TrainStep, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state; allocates nothing."""
    shapes = jax.eval_shape(train_step.init, jax.random.key(0))
    shardings = sharding.tree_shardings(mesh, shapes)
    return jax.tree.map(
        lambda leaf, leaf_sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf_sharding),
        shapes,
        shardings,
    )


def trace_step(train_step: TrainStep, setup: ModelSetup, state: TrainState) -> Traced:
    """Traces the training step. The leaves of `state` are arrays, or ShapeDtypeStructs with shardings."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    out_shardings = (shardings, sharding.replicated(setup.mesh))
    step = jax.jit(train_step.__call__, donate_argnums=0, out_shardings=out_shardings)
    batch = batch_shapes(train_step, setup.mesh, setup.num_classes)
    with matmul_precision(train_step.model.dtype):
        return step.trace(state, setup.frozen, setup.text_features, batch)


def compile_step(train_step: TrainStep, setup: ModelSetup, state: TrainState) -> Compiled:
    """Compiles the training step. See `trace_step` for the arguments.

    Raises:
        memory.TooLarge: the compiler reports that the step does not fit into memory.
    """
    return memory.compile_program(trace_step(train_step, setup, state))


def batch_shapes(train_step: TrainStep, mesh: Mesh, num_classes: Mapping[str, int]) -> dict[str, PyTree]:
    """Shapes and shardings of a batch: "video" uint8 [B, T, H, W, 3]; "labels" by label name.

    Labels are int32 [B], or bool [B, K] with data.multi_label. `num_classes` is K of each label.
    """
    config, size = train_step.config, train_step.model.backbone.resolution
    batch = sharding.batch_sharding(mesh)
    shape = (config.batch_size, config.model.num_frames, size, size, 3)
    labels = {
        name: ((shape[0], k), np.bool_) if config.data.multi_label else (shape[:1], np.int32)
        for name, k in num_classes.items()
    }
    return {
        "video": jax.ShapeDtypeStruct(shape, np.uint8, sharding=batch),
        "labels": {name: jax.ShapeDtypeStruct(*label, sharding=batch) for name, label in labels.items()},
    }
