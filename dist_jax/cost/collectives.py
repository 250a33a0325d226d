"""Collectives of a compiled program."""

import dataclasses
from collections.abc import Iterator

from dist_jax.cost.hlo import Instruction, Module, Shape
from dist_jax.cost.loops import executions

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
    bytes: int  # of the results, summed over all executions
    op_name: str  # name of the JAX operation


def collectives(module: Module) -> list[Collective]:
    """All collectives of a program, largest first. Raises ValueError for a loop with an unknown trip count."""
    found = []
    for execution in executions(module):
        for instruction in _with_fused(module, execution.instruction):
            kind = instruction.opcode.removesuffix("-start")
            if kind in KINDS:
                arrays = _results(instruction)
                size = execution.times * sum(array.bytes for array in arrays)
                shapes = tuple((array.dtype, array.sizes) for array in arrays)
                found.append(Collective(kind, execution.times, shapes, size, execution.op_name))
    return sorted(found, key=lambda collective: -collective.bytes)


def _with_fused(module: Module, instruction: Instruction) -> Iterator[Instruction]:
    """An instruction, and those of its fusion."""
    yield instruction
    if instruction.opcode == "fusion":
        yield from module.computations[instruction.called["calls"]].instructions.values()


def _results(instruction: Instruction) -> list[Shape]:
    """The results. The type of some asynchronous collectives also contains operands and counters of the runtime."""
    if instruction.opcode not in ("all-gather-start", "collective-permute-start"):
        return instruction.arrays
    num_operands = len(instruction.operands)
    return [array for array in instruction.arrays if array.sizes][num_operands : 2 * num_operands]
