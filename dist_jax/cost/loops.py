"""Number of executions of every instruction of a compiled program, loops included.

CPU and GPU programs contain the trip counts of their loops, TPU programs do not. There, `trip_count` runs the scalar
integer arithmetic of the loop: the counter, its step and the condition.
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
    yield from _executions(module, module.computations[module.entry], 1, "")


def _executions(module: Module, computation: Computation, times: int, context: str) -> Iterator[Execution]:
    for instruction in computation.instructions.values():
        op_name = instruction.op_name if "/" in instruction.op_name else context  # the compiler's names have no "/"
        yield Execution(instruction, computation, times, op_name)
        called = instruction.called
        if instruction.opcode == "while":
            trips = trip_count(module, computation, instruction)
            if trips is None:
                raise ValueError(f"the trip count of the loop {instruction.name} ({op_name}) is unknown")
            yield from _executions(module, module.computations[called["body"]], times * trips, op_name)
        elif instruction.opcode == "conditional" or instruction.opcode in ("call", "async-start"):
            for name in called.values():
                yield from _executions(module, module.computations[name], times, op_name)


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int | None:
    """Number of iterations of the `while` instruction `loop` of `computation`; None if it is unknown."""
    known = re.search(r'known_trip_count.{1,6}n"?:"?(\d+)', loop.attributes)
    if known:
        return int(known[1])
    if any(name in loop.op_name for name in REJECTION_SAMPLERS):
        return 1
    scalars = _Scalars(module)
    condition, body = (module.computations[loop.called[name]] for name in ("condition", "body"))
    state = scalars.value(computation, loop.operands[0], ())
    for trips in range(_MAX_TRIPS):
        proceed = scalars.value(condition, condition.root.name, (state,))
        if proceed is None:
            return None
        if not proceed:
            return trips
        state = scalars.value(body, body.root.name, (state,))
    return None


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
