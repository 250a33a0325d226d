"""What a training step needs of a device's memory and the largest batch that fits, as the compiler counts them."""

import dataclasses
import math
import os
from collections.abc import Callable

import jax
from jax.stages import Compiled


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes of one device."""

    arguments: int  # frozen and trainable parameters, optimizer state, the batch
    outputs: int  # beyond what takes the place of donated arguments
    temporary: int  # features, residuals, gradients

    @property
    def total(self) -> int:
        """What must fit."""
        return self.arguments + self.outputs + self.temporary

    def __str__(self) -> str:
        """In GiB."""
        parts = {"arguments": self.arguments, "outputs": self.outputs, "temporary": self.temporary}
        listed = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items())
        return f"{self.total / 2**30:.2f} GiB of each device ({listed})"


def step_memory(compiled: Compiled) -> StepMemory:
    """The compiler's count for a compiled step."""
    found = compiled.memory_analysis()
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    return StepMemory(found.argument_size_in_bytes, outputs, found.temp_size_in_bytes)


def with_waiting_batches(step: StepMemory, batch: dict[str, jax.ShapeDtypeStruct], count: int) -> StepMemory:
    """What a step needs while `count` more batches of these shapes and shardings wait on the devices."""
    parts = (math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in batch.values())
    return dataclasses.replace(step, arguments=step.arguments + count * sum(parts))


def device_limit() -> int:
    """Bytes that a device may take: what its allocator says; on CPU this machine's memory over its devices."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is not None:
        return limit
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()


def largest_batch(memory_of: Callable[[int], StepMemory], unit: int, limit: int) -> int:
    """The largest multiple of `unit` whose step fits into `limit` bytes; 0 if not even `unit` does.

    Args:
        memory_of: compiles the step for a batch size.
        unit: what batch sizes must be divisible by.
        limit: bytes of a device.
    """

    def fits(count: int) -> bool:
        return memory_of(count * unit).total <= limit

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 16):  # within a sixteenth: every try compiles
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * unit


def batch_unit(devices: int, accumulate: int, group: int) -> int:
    """What a batch size must be divisible by: whole mixing groups, whole pairs on every device in every part."""
    return math.lcm(group, devices * accumulate * min(group, 2))
