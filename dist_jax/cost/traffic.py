"""Bytes that a compiled program reads from and writes to the main memory of a device, loops included."""

from dist_jax.cost.hlo import Computation, Instruction, Module
from dist_jax.cost.loops import executions

# Instructions without data movement of their own.
_FREE = {
    *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"),
    *("after-all", "partition-id", "replica-id", "opt-barrier"),
    *("async-start", "async-update", "async-done", "copy-done"),
}


def count(module: Module) -> int:
    """Bytes that all executed instructions read and write.

    Every operand and result of an instruction counts, once per execution, unless it is on chip. Of an operand that is
    only sliced, the slice counts; of a buffer that is updated in place, the update. Caches are not modelled.

    Raises:
        ValueError: the trip count of a loop is unknown.
    """
    return sum(
        execution.times * _instruction(module, execution.computation, execution.instruction)
        for execution in executions(module)
        if execution.instruction.opcode not in _FREE
    )


def _instruction(module: Module, computation: Computation, instruction: Instruction) -> int:
    operands = [_bytes(computation.instructions[name]) for name in instruction.operands]
    if instruction.opcode == "fusion":
        fused = module.computations[instruction.called["calls"]]
        return _fusion(fused, operands, _bytes(instruction))
    return _moved(instruction, operands, _bytes(instruction))


def _moved(instruction: Instruction, operands: list[int], result: int) -> int:
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * result
    if instruction.opcode in ("dynamic-update-slice", "scatter"):
        return 2 * operands[1]
    if instruction.opcode == "copy-start":  # its result also contains the source and a flag
        return 2 * operands[0]
    return sum(operands) + result


def _fusion(fused: Computation, operands: list[int], result: int) -> int:
    """Bytes of a fusion with these sizes of its operands and results."""
    users: dict[str, list[Instruction]] = {}
    for instruction in fused.instructions.values():
        for name in instruction.operands:
            users.setdefault(name, []).append(instruction)
    total = 0
    for instruction in fused.instructions.values():
        if instruction.opcode == "parameter":
            total += min(operands[int(instruction.operands[0])], _read(fused, users, instruction.name))
    update = _updated(fused, fused.root)
    return total + (result if update is None else min(result, update))


def _read(fused: Computation, users: dict[str, list[Instruction]], name: str) -> int:
    """Bytes of a value that a fusion reads, if all users are slices or in-place updates; otherwise all of it."""
    total = 0
    for user in users.get(name, []):
        if user.opcode in ("dynamic-slice", "slice"):
            total += _bytes(user)
        elif user.opcode == "bitcast":
            total += _read(fused, users, user.name)
        elif not (user.opcode == "dynamic-update-slice" and user.operands[0] == name):
            return _bytes(fused.instructions[name])
    return total


def _updated(fused: Computation, root: Instruction) -> int | None:
    """Bytes that a fusion writes if it updates a buffer in place; None otherwise."""
    if root.opcode == "bitcast":
        return _updated(fused, fused.instructions[root.operands[0]])
    if root.opcode == "dynamic-update-slice":
        return _bytes(fused.instructions[root.operands[1]])
    return None


def _bytes(instruction: Instruction) -> int:
    """Size of the results in main memory."""
    return sum(array.bytes for array in instruction.arrays if not array.on_chip)
