"""--find_batch: searches the largest batch_size whose training step fits into device memory. Runs no training step."""

import ml_collections
from jax.sharding import Mesh

from dist_jax.distributed import sharding
from dist_jax.experiment import build
from dist_jax.training import memory
from dist_jax.training.optimizer import lr_schedule, make_optimizer
from dist_jax.training.setup import abstract_state, batch_shapes, compile_step
from dist_jax.training.train_step import TrainStep


def find_batch(config: ml_collections.ConfigDict, mesh: Mesh) -> int:
    """Prints the memory of each tried batch size, and returns the largest that fits (see `memory.largest_batch`)."""
    experiment = build(config, mesh)
    limit = memory.device_limit()
    sizes = memory.batch_sizes(mesh.shape["data"] * mesh.shape["fsdp"], config.grad_accum_steps, config.mix.group_size)

    def memory_of(batch_size: int) -> memory.StepMemory:
        resized = ml_collections.ConfigDict(config)
        resized.batch_size = batch_size
        train_step = TrainStep(
            experiment.model,
            make_optimizer(config.optimizer),
            lr_schedule(config.optimizer, 1.0, 1.0),  # the length of the run does not change the memory
            ml_collections.FrozenConfigDict(resized),
            sharding.replicated(mesh),
        )
        try:
            compiled = compile_step(train_step, experiment, abstract_state(train_step, mesh))
        except memory.TooLarge:
            print(f"batch_size={batch_size}: does not fit (reported by the compiler)", flush=True)
            raise
        batch = batch_shapes(train_step, mesh)
        step_memory = memory.add_prefetched(memory.step_memory(compiled), batch, config.data.prefetch)
        print(f"batch_size={batch_size}: {step_memory}", flush=True)
        return step_memory

    largest = memory.largest_batch(memory_of, sizes, limit)
    result = f"{largest} (to within 1/16)" if largest else f"none; the smallest, {sizes(1)}, does not fit"
    print(f"largest batch_size that fits into {limit / 2**30:.2f} GiB: {result}")
    return largest
