"""Collectives of a compiled program."""

import dataclasses
import re

from dist_jax.cost.hlo import Module
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
        instruction = execution.instruction
        kind = re.sub(r"-start$", "", instruction.opcode)
        if kind not in KINDS:
            continue
        arrays = instruction.arrays
        if instruction.opcode in ("all-gather-start", "collective-permute-start"):
            # Operands, results and, on some backends, counters of the runtime.
            arrays = [array for array in arrays if array.sizes][len(instruction.operands) :][
                : len(instruction.operands)
            ]
        size = execution.times * sum(array.bytes for array in arrays)
        shapes = tuple((array.dtype, array.sizes) for array in arrays)
        found.append(Collective(kind, execution.times, shapes, size, execution.op_name))
    return sorted(found, key=lambda collective: -collective.bytes)
