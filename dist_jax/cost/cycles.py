"""Cycles of a compiled TPU program, as its compiler estimates them: in total, by module, by instruction.

These are estimates of libtpu's cost model, not measurements. Compare them with estimates only: large matrix products
are close to the peak, copies are slower than the memory allows, and collectives have no estimate.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable

from dist_jax.cost.chips import TpuChip
from dist_jax.cost.hlo import Instruction, Module
from dist_jax.cost.loops import Execution, executions

TOWER, DIST_FORWARD, DIST_BACKWARD, POOLING, REST = (
    "frozen tower",
    "DiST forward",
    "DiST backward",
    "pooling",
    "input, loss, optimizer",
)

_PROJECT = "/dist_jax/"  # the folder whose lines are shown
# Custom calls that compute nothing.
_FREE_CUSTOM_CALLS = ("AllocateBuffer", "ConcatBitcast", "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape")


@dataclasses.dataclass(frozen=True)
class InstructionCycles:
    """Estimated cycles of one instruction in one run of the program."""

    name: str
    shape: str  # of the results
    cycles: int  # of all executions
    times: int  # number of executions
    module: str
    op_name: str
    source: str  # file:line; empty if unknown

    @property
    def is_backward(self) -> bool:
        """Whether the instruction belongs to a backward pass, with what it computes again."""
        return "transpose(" in self.op_name


@dataclasses.dataclass(frozen=True)
class Cycles:
    """Estimated cycles of one run of a program on one device."""

    total: int
    by_module: dict[str, int]  # largest first
    instructions: list[InstructionCycles]  # largest first
    uncounted: dict[str, int]  # custom calls without an estimate: target -> executions


def estimate(module: Module, module_of: Callable[[str], str], chip: TpuChip) -> Cycles:
    """Sums the compiler's estimates, loops included.

    Args:
        module: a program for `chip`.
        module_of: op_name of an instruction -> name of its module, e.g. `training_module`.
        chip: for Pallas kernels, which the compiler does not estimate: they count by their own operations and bytes.

    Raises:
        ValueError: the trip count of a loop is unknown.
    """
    rows, uncounted = [], Counter[str]()
    for execution in executions(module):
        instruction, op_name = execution.instruction, execution.op_name
        cycles = instruction.estimated_cycles
        if instruction.opcode == "custom-call":
            cycles = _kernel_cycles(instruction, chip)
            target = _target(instruction)
            if cycles is None and target not in _FREE_CUSTOM_CALLS:
                uncounted[target] += execution.times
        if cycles:
            rows.append(_row(module, execution, cycles, module_of(op_name)))
    by_module = Counter[str]()
    for row in rows:
        by_module[row.module] += row.cycles
    rows.sort(key=lambda row: -row.cycles)
    return Cycles(sum(by_module.values()), dict(by_module.most_common()), rows, dict(uncounted))


_TOWER_CLASS, _NETWORK_CLASS = re.compile(r"\w+Vision\b"), "DistNetwork"  # Flax modules in an op_name


def training_module(op_name: str) -> str:
    """The part of a training step that an op_name belongs to."""
    in_tower = max((match.start() for match in _TOWER_CLASS.finditer(op_name)), default=-1)
    in_network = op_name.rfind(_NETWORK_CLASS)
    if in_tower > in_network:
        return TOWER
    if in_network < 0:
        return REST
    if "pool" in op_name[in_network:]:
        return POOLING
    return DIST_BACKWARD if "transpose(" in op_name else DIST_FORWARD


def _row(module: Module, execution: Execution, cycles: int, part: str) -> InstructionCycles:
    instruction = execution.instruction
    return InstructionCycles(
        name=instruction.name,
        shape=re.sub(r"\{[^}]*\}|/\*.*?\*/", "", instruction.shape),
        cycles=cycles * execution.times,
        times=execution.times,
        module=part,
        op_name=execution.op_name,
        source=_relative(module.source(instruction, _PROJECT)),
    )


def _relative(source: str) -> str:
    """A source place from the folder of its package on."""
    for folder in (_PROJECT, "/site-packages/"):
        _, found, rest = source.rpartition(folder)
        if found:
            return (folder + rest).removeprefix("/site-packages").lstrip("/")
    return source


def _target(instruction: Instruction) -> str:
    match = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    return match[1] if match else "custom-call"


def _kernel_cycles(instruction: Instruction, chip: TpuChip) -> int | None:
    """Cycles of a Pallas kernel by the `cost_estimate` that its author gives; None if there is none."""
    cost = re.search(r'"cost_estimate":\{([^}]*)\}', instruction.attributes)
    if not cost:
        return None
    numbers = {name: int(value) for name, value in re.findall(r'"(\w+)":"?(\d+)', cost[1])}
    seconds = max(numbers.get("flops", 0) / chip.peak_flops, numbers.get("bytes_accessed", 0) / chip.memory_bandwidth)
    return round(seconds * chip.clock)
