"""--find_batch: nearly the largest batch_size whose training step fits a device's memory, by compiling alone."""

import ml_collections
from jax.sharding import Mesh

from dist_jax.distributed import sharding
from dist_jax.experiment import build
from dist_jax.training import memory
from dist_jax.training.optimizer import lr_schedule, make_optimizer
from dist_jax.training.setup import abstract_state, batch_shapes, compile_step
from dist_jax.training.train_step import TrainStep


def find_batch(config: ml_collections.ConfigDict, mesh: Mesh) -> int:
    """Prints every size that is tried, and returns nearly the largest that fits (see `memory.largest_batch`)."""
    experiment = build(config, mesh)
    limit = memory.device_limit()
    sizes = memory.batch_sizes(mesh.shape["data"] * mesh.shape["fsdp"], config.grad_accum_steps, config.mix.group_size)

    def memory_of(batch_size: int) -> memory.StepMemory:
        tried = ml_collections.ConfigDict(config)
        tried.batch_size = batch_size
        trainer = TrainStep(
            experiment.model,
            make_optimizer(config.optimizer),
            lr_schedule(config.optimizer, 1.0, 1.0),  # whichever: it takes no memory
            ml_collections.FrozenConfigDict(tried),
            sharding.replicated(mesh),
        )
        try:
            found = memory.step_memory(compile_step(trainer, experiment, abstract_state(trainer, mesh)))
        except memory.TooLarge:
            print(f"batch_size={batch_size}: the compiler finds no room for it", flush=True)
            raise
        found = memory.with_waiting_batches(found, batch_shapes(trainer, mesh), config.data.prefetch)
        print(f"batch_size={batch_size}: {found}", flush=True)
        return found

    largest = memory.largest_batch(memory_of, sizes, limit)
    print(f"nearly the largest batch_size that fits into {limit / 2**30:.2f} GiB: ", end="")
    print(largest or f"none, not even {sizes(1)}")
    return largest
