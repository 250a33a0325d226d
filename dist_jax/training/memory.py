"""Device memory of a compiled training step, and the search for the largest batch size that fits."""

import ctypes
import dataclasses
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from jax.errors import JaxRuntimeError
from jax.stages import Compiled, Traced

from dist_jax.errors import UserError, first_line
from dist_jax.typing import PyTree

STEP_TOO_LARGE = (
    "the training step does not fit into device memory: increase grad_accum_steps, set model.remat=layers, shard the "
    "parameters with mesh.fsdp, or reduce batch_size (--find_batch prints the largest that fits)"
)
EVALUATION_TOO_LARGE = (
    "the evaluation does not fit into device memory: reduce eval.batch_size, or shard the parameters with mesh.fsdp"
)


class TooLarge(UserError):
    """A program does not fit into device memory."""


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes on one device."""

    arguments: int  # frozen and trainable parameters, optimizer state, the batch
    outputs: int  # without those that reuse donated arguments
    temporary: int  # features, residuals, gradients

    @property
    def total(self) -> int:
        """Bytes that must fit into device memory."""
        return self.arguments + self.outputs + self.temporary

    def __str__(self) -> str:
        parts = {"arguments": self.arguments, "outputs": self.outputs, "temporary": self.temporary}
        listed = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items())
        return f"{self.total / 2**30:.2f} GiB per device ({listed})"


def compile_program(traced: Traced) -> Compiled:
    """Compiles a program and gives the memory that the compiler has freed back to the operating system.

    glibc keeps it otherwise: 0.6 GiB of host memory after the training step of ViT-B/16 (Linux).

    Raises:
        TooLarge: the compiler reports that the program does not fit into memory.
    """
    with raise_too_large():
        compiled = traced.lower().compile()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # not in musl
        libc.malloc_trim(0)
    return compiled


def step_memory(compiled: Compiled) -> StepMemory:
    """The memory of a compiled step, as counted by the compiler."""
    analysis = compiled.memory_analysis()
    outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return StepMemory(analysis.argument_size_in_bytes, outputs, analysis.temp_size_in_bytes)


def add_prefetched(step: StepMemory, batch: PyTree, num_batches: int) -> StepMemory:
    """The memory of a step while `num_batches` more batches are on the devices.

    Args:
        step: memory of the step itself.
        batch: tree of ShapeDtypeStructs with shardings.
        num_batches: number of prefetched batches.
    """
    leaves = jax.tree.leaves(batch)
    batch_bytes = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
    return dataclasses.replace(step, arguments=step.arguments + num_batches * batch_bytes)


def device_limit() -> int:
    """Memory of a device, bytes: the limit of its allocator; on CPU host memory / number of devices."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is not None:
        return limit
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()


@contextmanager
def raise_too_large(message: str = STEP_TOO_LARGE) -> Iterator[None]:
    """Converts XLA's out-of-memory errors to TooLarge. TPUs raise them at compile time, other devices at run time.

    Args:
        message: of the TooLarge: what does not fit, and what to do.
    """
    try:
        yield
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TooLarge(f"{message} ({first_line(error)[:200]})") from error


def largest_batch(memory_of: Callable[[int], StepMemory], size: Callable[[int], int], limit: int) -> int:
    """Searches the largest batch size whose step fits into memory, to within 1/16.

    Args:
        memory_of: compiles the step for a batch size; may raise TooLarge.
        size: n, from 1 -> the n-th valid batch size, increasing.
        limit: memory of a device, bytes.

    Returns:
        A batch size that fits; the next valid size, or one at most 1/16 larger, does not fit. 0 if none fits.
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
    while high - low > 1 and size(high) - size(low) > size(low) // 16:  # each call of `fits` compiles
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return size(low)


def batch_sizes(num_devices: int, grad_accum_steps: int, group_size: int) -> Callable[[int], int]:
    """The valid batch sizes: n, from 1 -> the n-th.

    Each device holds whole pairs of mixed clips in each part of a batch. A batch is one group or several whole groups.

    Args:
        num_devices: devices that shard a batch.
        grad_accum_steps: parts of a batch.
        group_size: config.mix.group_size.
    """
    unit = num_devices * grad_accum_steps * min(group_size, 2)
    whole_groups = math.lcm(group_size, unit)  # smallest size with only whole groups
    num_single = group_size // unit  # number of sizes that are one group; the last may be group_size itself

    def size(number: int) -> int:
        if number <= num_single:
            return number * unit
        return (number - num_single + (num_single * unit == whole_groups)) * whole_groups

    return size
