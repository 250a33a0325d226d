"""Runs the programs of `cost.programs` on the devices of this machine and measures them."""

import dataclasses
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Compiled

from dist_jax.cost import flops, hlo, programs, traffic
from dist_jax.model_setup import ModelSetup
from dist_jax.training import memory

# Dense bfloat16 FLOP per second by words of jax.Device.device_kind; the first that occurs counts. NVIDIA's data sheets.
GPU_PEAKS = {
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
}


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One program on the devices of this machine."""

    program: str
    seconds: list[float]  # of each step
    flops: int | None  # of all devices; None if not counted
    bytes: int | None  # moved in the memory of one device; None if not counted
    arguments: int | None  # bytes on one device
    temporary: int | None  # bytes on one device
    peak_memory: int | None  # bytes while it runs: of the device; on a CPU of the process; None if unknown
    compile_seconds: float

    @property
    def median(self) -> float:
        """Median time of a step, seconds."""
        return statistics.median(self.seconds)


def measure(name: str, setup: ModelSetup, num_steps: int) -> Measurement:
    """Compiles and runs one of `programs.PROGRAMS` with random arguments.

    Raises:
        memory.TooLarge: it does not fit into memory.
    """
    traced = programs.trace(name, setup)
    start = time.perf_counter()
    compiled = memory.compile_program(traced)
    compile_seconds = time.perf_counter() - start
    with memory.raise_too_large():
        step_memory = memory.step_memory(compiled)
        arguments = random_arguments(compiled)
        is_training = name != programs.FROZEN_FORWARD

        def step() -> None:
            outputs = jax.block_until_ready(compiled(*arguments))
            if is_training:  # the state is donated
                arguments[0] = outputs[0]

        seconds, peak_memory = time_steps(step, num_steps)
    device_memory = jax.local_devices()[0].memory_stats()  # None on a CPU
    if device_memory:
        peak_memory = device_memory["peak_bytes_in_use"]
    return Measurement(
        program=name,
        seconds=seconds,
        flops=flops.count(traced.jaxpr),
        bytes=traffic.count(hlo.parse(compiled.as_text() or "")),
        arguments=step_memory.arguments,
        temporary=step_memory.temporary,
        peak_memory=peak_memory,
        compile_seconds=compile_seconds,
    )


def random_arguments(compiled: Compiled) -> list[Any]:
    """Arguments for a compiled program: small positive numbers, random pixels, zeros for other integers."""
    rng = np.random.default_rng(0)

    def leaf(aval: jax.core.ShapedArray, sharding: jax.sharding.Sharding) -> jax.Array:
        if aval.dtype == np.uint8:
            values = rng.integers(0, 256, aval.shape, np.uint8)
        elif jnp.issubdtype(aval.dtype, jnp.floating):
            values = (0.02 * np.abs(rng.standard_normal(aval.shape, np.float32))).astype(aval.dtype)
        else:
            values = np.zeros(aval.shape, aval.dtype)
        return jax.device_put(values, sharding)

    return list(jax.tree.map(leaf, compiled.in_avals[0], compiled.input_shardings[0]))


def time_steps(step: Callable[[], object], num_steps: int) -> tuple[list[float], int | None]:
    """Runs a step once, then measures it.

    Args:
        step: returns when the step is finished.
        num_steps: number of measured steps.

    Returns:
        The seconds of each step, and the peak memory of this process during these steps, bytes (Linux only).
    """
    step()
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # the peak becomes the current memory: without compilation and the first step
    seconds = []
    for _ in range(num_steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds, _peak_memory()


def _peak_memory() -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def gpu_peak(device_kind: str) -> float | None:
    """Peak bfloat16 FLOP per second of one GPU; None if it is not in GPU_PEAKS."""
    return next((peak for words, peak in GPU_PEAKS.items() if re.search(rf"\b{words}\b", device_kind)), None)


def peak_flops(dtype: jnp.dtype) -> tuple[float, str]:
    """Peak FLOP per second of all devices together, and where the number is from: a data sheet or a measurement."""
    device, num_devices = jax.devices()[0], jax.device_count()
    known = gpu_peak(device.device_kind)
    if known and dtype == jnp.bfloat16:
        return num_devices * known, f"data sheet of {device.device_kind}, bfloat16"
    size = 2048 if device.platform == "cpu" else 8192
    x = jnp.full((size, size), 0.5, dtype)
    product = jax.jit(jnp.dot)
    seconds, _ = time_steps(lambda: jax.block_until_ready(product(x, x)), 5)
    # A simulated device of a CPU uses all cores.
    factor = 1 if device.platform == "cpu" else num_devices
    return factor * 2 * size**3 / min(
        seconds
    ), f"measured: product of {size} x {size} matrices, {jnp.dtype(dtype).name}"
