"""Number of executions of every instruction of a compiled program, loops included.

CPU and GPU programs contain the trip counts of their loops, TPU programs do not. There, the scalar integers of a loop
are evaluated: the counter, its step and the condition.
"""

import dataclasses
import operator
import re
from collections.abc import Callable, Iterator

from dist_jax.cost.hlo import Computation, Instruction, Module

Value = int | tuple | None  # of a scalar or a tuple; None: not known before the program runs

# Loops that end when all random samples are accepted: their number of executions depends on the random numbers. They
# compute some scalars per draw and count as one execution.
REJECTION_SAMPLERS = ("_gamma",)
_MAX_TRIPS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Execution:
    """An instruction that is executed by itself, not as a part of a fusion."""

    instruction: Instruction
    computation: Computation
    times: int  # executions per run of the program
    op_name: str  # that of the instruction; if the compiler added it, of the loop around it


def executions(module: Module) -> Iterator[Execution]:
    """All instructions of a program, in order. Of a conditional, all branches.

    Raises:
        ValueError: the trip count of a loop is unknown; names the loop.
    """
    yield from _executions(module, module.computations[module.entry], 1, "", ())


def _executions(
    module: Module, computation: Computation, times: int, context: str, arguments: tuple[Value, ...]
) -> Iterator[Execution]:
    scalars = _Scalars(module)
    for instruction in computation.instructions.values():
        op_name = instruction.op_name if "/" in instruction.op_name else context  # the compiler's names have no "/"
        yield Execution(instruction, computation, times, op_name)
        called = {name: module.computations[callee] for name, callee in instruction.called.items()}
        if instruction.opcode == "while":
            loop = _run_counter(scalars, computation, instruction, called, arguments)
            if loop is None:
                raise ValueError(f"the trip count of the loop {instruction.name} ({op_name}) is unknown")
            trips, constants = loop
            yield from _executions(module, called["body"], times * trips, op_name, (constants,))
        elif instruction.opcode == "call":
            values = tuple(scalars.value(computation, operand, arguments) for operand in instruction.operands)
            yield from _executions(module, called["to_apply"], times, op_name, values)
        elif instruction.opcode in ("conditional", "async-start"):
            for callee in called.values():
                yield from _executions(module, callee, times, op_name, ())


def _run_counter(
    scalars: "_Scalars",
    computation: Computation,
    loop: Instruction,
    called: dict[str, Computation],
    arguments: tuple[Value, ...],
) -> tuple[int, Value] | None:
    """Number of iterations of a `while` instruction, and the scalars of its state that never change; None if unknown.

    Loops inside may take their trip counts from these scalars.
    """
    known = re.search(r'known_trip_count.{1,6}n"?:"?(\d+)', loop.attributes)
    if known:
        return int(known[1]), None
    if any(name in loop.op_name for name in REJECTION_SAMPLERS):
        return 1, None
    condition, body = called["condition"], called["body"]
    state = constants = scalars.value(computation, loop.operands[0], arguments)
    for trips in range(_MAX_TRIPS):
        proceed = scalars.value(condition, condition.root.name, (state,))
        if proceed is None:
            return None
        if not proceed:
            return trips, constants
        state = scalars.value(body, body.root.name, (state,))
        constants = _common(constants, state)
    return None


def _common(first: Value, second: Value) -> Value:
    """The parts of two values that are equal; None for the others."""
    if isinstance(first, tuple) and isinstance(second, tuple):
        return tuple(_common(*pair) for pair in zip(first, second, strict=True))
    return first if first == second else None


_OPERATIONS: dict[str, Callable[..., int]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "and": operator.and_,
    "or": operator.or_,
    "minimum": min,
    "maximum": max,
    "negate": operator.neg,
    "select": lambda condition, yes, no: yes if condition else no,
}
_COMPARISONS: dict[str, Callable[..., bool]] = {
    "EQ": operator.eq, "NE": operator.ne, "LT": operator.lt, "LE": operator.le, "GT": operator.gt, "GE": operator.ge,
}  # fmt: skip
_IDENTITIES = ("copy", "convert", "bitcast", "reshape", "opt-barrier", "optimization-barrier")
_CALLS = ("fusion", "call")


class _Scalars:
    """Evaluates the scalar integers of computations."""

    def __init__(self, module: Module) -> None:
        self._module = module

    def value(self, computation: Computation, name: str, arguments: tuple[Value, ...]) -> Value:
        """The value of the instruction `name` for these arguments of the computation."""
        instruction = computation.instructions[name]
        opcode = instruction.opcode
        if not instruction.shape.startswith("(") and not re.match(r"(pred|[su]\d+)\[\]", instruction.shape):
            return None
        if opcode == "constant":
            text = instruction.operands[0]
            return {"true": 1, "false": 0}.get(text, int(text) if re.fullmatch(r"-?\d+", text) else None)
        if opcode == "parameter":
            number = int(instruction.operands[0])
            return arguments[number] if number < len(arguments) else None
        values = [self.value(computation, operand, arguments) for operand in instruction.operands]
        if opcode == "tuple":
            return tuple(values)
        if opcode == "get-tuple-element":
            index = re.search(r"index=(\d+)", instruction.attributes)
            return values[0][int(index[1])] if index and isinstance(values[0], tuple) else None
        if opcode in _IDENTITIES:
            return values[0]
        if opcode in _CALLS:
            called = self._module.computations[next(iter(instruction.called.values()))]
            return self.value(called, called.root.name, tuple(values))
        return _apply(instruction, values)


def _apply(instruction: Instruction, values: list[Value]) -> Value:
    if any(value is None for value in values):
        return None
    if instruction.opcode == "compare":
        direction = re.search(r"direction=(\w+)", instruction.attributes)
        return int(_COMPARISONS[direction[1]](*values)) if direction else None
    operation = _OPERATIONS.get(instruction.opcode)
    return operation(*values) if operation else None
