"""What a training step needs of a device's memory and the largest batch that fits, as the compiler counts them."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from jax.errors import JaxRuntimeError
from jax.stages import Compiled

from dist_jax.errors import UserError, first_line


class TooLarge(UserError):
    """A device's memory is too small for what was to be compiled or run."""


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


@contextmanager
def raise_too_large() -> Iterator[None]:
    """Raises TooLarge for what XLA says where memory ends: TPUs when they compile, others when they run."""
    try:
        yield
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TooLarge(
            "a device's memory is too small for this run: raise grad_accum_steps, set model.remat=layers, spread the "
            "parameters by mesh.fsdp, or lower batch_size, for which --find_batch looks "
            f"({first_line(error)[:200]})"
        ) from error


def largest_batch(memory_of: Callable[[int], StepMemory], size: Callable[[int], int], limit: int) -> int:
    """Nearly the largest batch size whose step fits into `limit` bytes; 0 if not even the smallest does.

    Args:
        memory_of: compiles the step for a batch size; may raise TooLarge.
        size: the n-th batch size that there can be, n from 1, increasing.
        limit: bytes of a device.

    Returns:
        A batch size that fits; by a sixteenth of it more, or at the next size, one was found that does not.
    """

    def fits(number: int) -> bool:
        try:
            return memory_of(size(number)).total <= limit
        except TooLarge:
            return False

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1 and size(high) - size(low) > size(low) // 16:  # every try compiles
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return size(low)


def batch_sizes(devices: int, grad_accum_steps: int, group: int) -> Callable[[int], int]:
    """The batch sizes that there can be: n, from 1 -> the n-th.

    Args:
        devices: that split a batch.
        grad_accum_steps: parts of a batch. Each device has whole pairs of clips in each.
        group: config.mix.group_size. A batch is one group, or made of whole ones.
    """
    unit = devices * grad_accum_steps * min(group, 2)
    of_groups = math.lcm(group, unit)
    alone = group // unit  # sizes that are one group; the last is `group` itself where unit divides it

    def size(number: int) -> int:
        if number <= alone:
            return number * unit
        return (number - alone + (alone * unit == of_groups)) * of_groups

    return size
