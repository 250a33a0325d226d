"""The cost of a training step on a TPU slice, also for a finished run. Reads no weights and no data."""

import dataclasses
from collections.abc import Sequence

import jax
import ml_collections

from dist_jax import config as settings
from dist_jax.cost import abstract, programs
from dist_jax.cost.chips import TpuSlice
from dist_jax.cost.programs import Cost
from dist_jax.distributed.mesh import make_mesh
from dist_jax.model_setup import ModelSetup
from dist_jax.models.networks import NO_NETWORK
from dist_jax.training import batch_search
from dist_jax.training.memory import TooLarge
from dist_jax.workdir.run_metadata import RunMetadata


def step_cost(setup: ModelSetup, tpu_slice: TpuSlice, program: str = programs.TRAIN) -> Cost:
    """The cost of a training step, or of another of programs.PROGRAMS on a batch; the memory has prefetched batches.

    Raises TooLarge if it does not fit into memory.
    """
    chip, batch_size = tpu_slice.chip, setup.config.batch_size
    try:
        cost = programs.compile_cost(programs.trace(program, setup), chip)
    except TooLarge as error:
        needed = programs.needed_memory(error)
        raise TooLarge(f"batch_size={batch_size} does not fit into a {chip.name} chip: {needed}") from error
    total = batch_search.add_batches(cost.memory, setup)
    if total.total > chip.memory:
        limit = f"{chip.memory / 2**30:.2f} GiB"
        raise TooLarge(f"batch_size={batch_size} does not fit into the {limit} of a {chip.name} chip: {total}")
    return dataclasses.replace(cost, memory=total)


def run_cost(metadata: RunMetadata, tpu_slice: TpuSlice, devices: Sequence[jax.Device]) -> Cost:
    """The cost of the training step of a finished run, or of the backbone's forward pass if nothing was trained.

    Args:
        metadata: of the run, with its batch size and mesh.
        tpu_slice: a slice.
        devices: its devices, from `topology.devices`.

    Raises:
        UserError: the batch or the mesh does not fit the slice, the step does not fit into memory, or the sizes of the
          backbone are neither known nor in local files.
    """
    config = _saved_config(metadata)
    num_classes = {label: len(names) for label, names in metadata.class_names.items()}
    setup = abstract.setup(config, make_mesh(config.mesh, devices), num_classes)
    is_trained = config.model.network != NO_NETWORK
    return step_cost(setup, tpu_slice, programs.TRAIN if is_trained else programs.FROZEN_FORWARD)


def _saved_config(metadata: RunMetadata) -> ml_collections.ConfigDict:
    """The settings of a run. Those that did not exist when it was written have their defaults."""
    config, saved = settings.defaults(), ml_collections.ConfigDict(metadata.config)
    known = set(settings.field_names(config))
    config.update_from_flattened_dict({name: saved[name] for name in settings.field_names(saved) if name in known})
    return config
