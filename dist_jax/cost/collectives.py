"""Collectives of a compiled program."""

import dataclasses
from collections.abc import Iterator

from dist_jax.cost.hlo import Computation, Instruction, Module, Shape
from dist_jax.cost.loops import Execution, executions

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction."""

    kind: str  # one of KINDS
    num_executions: int  # per run of the program
    shapes: tuple[tuple[str, tuple[int, ...]], ...]  # dtype and shape of each result
    bytes: int  # of the results, or of the operands of a reduce-scatter; summed over all executions
    op_name: str  # name of the JAX operation


def collectives(module: Module) -> list[Collective]:
    """All collectives of a program, largest first. Raises ValueError for a loop with an unknown trip count."""
    found = []
    for execution in executions(module):
        for computation, instruction in _with_fused(module, execution):
            kind = instruction.opcode.removesuffix("-start")
            if kind in KINDS:
                arrays = _results(instruction)
                # What a device sends is proportional to the larger side: the operands of a reduce-scatter.
                sent = arrays if kind != "reduce-scatter" else _operands(computation, instruction)
                size = execution.times * sum(array.bytes for array in sent)
                shapes = tuple((array.dtype, array.sizes) for array in arrays)
                found.append(Collective(kind, execution.times, shapes, size, execution.op_name))
    return sorted(found, key=lambda collective: -collective.bytes)


def _with_fused(module: Module, execution: Execution) -> Iterator[tuple[Computation, Instruction]]:
    """An instruction, and those of its fusion, with their computations."""
    instruction = execution.instruction
    yield execution.computation, instruction
    if instruction.opcode == "fusion":
        fused = module.computations[instruction.called["calls"]]
        for inner in fused.instructions.values():
            yield fused, inner


def _operands(computation: Computation, instruction: Instruction) -> list[Shape]:
    return [array for name in instruction.operands for array in computation.instructions[name].arrays]


def _results(instruction: Instruction) -> list[Shape]:
    """The results. The type of some asynchronous collectives also contains operands and counters of the runtime."""
    if instruction.opcode not in ("all-gather-start", "collective-permute-start"):
        return instruction.arrays
    num_operands = len(instruction.operands)
    return [array for array in instruction.arrays if array.sizes][num_operands : 2 * num_operands]
