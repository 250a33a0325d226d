"""The largest batch size whose training step fits into memory. Compiles; runs no step."""

import dataclasses

import ml_collections

from dist_jax.distributed.sharding import num_batch_shards
from dist_jax.model_setup import ModelSetup
from dist_jax.training import memory
from dist_jax.training.compiled_step import abstract_state, batch_shapes, compile_step, make_train_step
from dist_jax.training.optimizer import lr_schedule
from dist_jax.training.train_step import TrainStep


def search(setup: ModelSetup, limit: int) -> int:
    """Prints the memory of each tried batch size, and returns the largest that fits (see `memory.largest_batch`).

    Args:
        setup: its batch size is not used.
        limit: memory of a device, bytes.
    """
    config, mesh = setup.config, setup.mesh
    sizes = memory.batch_sizes(num_batch_shards(mesh), config.grad_accum_steps, config.mix.group_size)

    def memory_of(batch_size: int) -> memory.StepMemory:
        try:
            step_memory = memory_with_batches(with_settings(setup, {"batch_size": batch_size}))
        except memory.TooLarge:
            print(f"batch_size={batch_size}: does not fit (reported by the compiler)", flush=True)
            raise
        print(f"batch_size={batch_size}: {step_memory}", flush=True)
        return step_memory

    largest = memory.largest_batch(memory_of, sizes, limit)
    result = f"{largest} (to within 1/16)" if largest else f"none; the smallest, {sizes(1)}, does not fit"
    print(f"largest batch_size that fits into {limit / 2**30:.2f} GiB: {result}", flush=True)
    return largest


def with_settings(setup: ModelSetup, settings: dict[str, int]) -> ModelSetup:
    """The same setup with other top-level settings that do not change the model."""
    config = ml_collections.ConfigDict(setup.config)
    config.update(settings)
    return dataclasses.replace(setup, config=ml_collections.FrozenConfigDict(config))


def memory_with_batches(setup: ModelSetup) -> memory.StepMemory:
    """The memory of the compiled training step and of the prefetched batches. Raises memory.TooLarge."""
    train_step = _train_step(setup)
    compiled = compile_step(train_step, setup, abstract_state(train_step, setup.mesh))
    return add_batches(memory.step_memory(compiled), setup)


def add_batches(step_memory: memory.StepMemory, setup: ModelSetup) -> memory.StepMemory:
    """The memory of a training step together with the prefetched batches."""
    batch = batch_shapes(_train_step(setup), setup.mesh, setup.num_classes)
    return memory.add_prefetched(step_memory, batch, setup.config.data.prefetch)


def _train_step(setup: ModelSetup) -> TrainStep:
    # The length of the run does not change the memory.
    return make_train_step(setup, lr_schedule(setup.config.optimizer, 1.0, 1.0))
