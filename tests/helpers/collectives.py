"""Lists the collectives in the HLO text of a compiled program."""

import dataclasses
import math
import re

_KINDS = "all-reduce|all-gather|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast|reduce-scatter"
_COLLECTIVE = re.compile(rf"= (?P<shapes>.*?) (?P<kind>{_KINDS})(-start)?\(")
_SHAPE = re.compile(r"\b(pred|[sufb]+\d+)\[([\d,]*)\]")
_NAME = re.compile(r"%?([\w.-]+) \(.*\{$")
_CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIP_COUNT = re.compile(r'known_trip_count.{1,6}n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction."""

    kind: str
    num_executions: int  # per run of the program: product of the trip counts of the enclosing loops
    shapes: tuple[tuple[str, tuple[int, ...]], ...]  # dtype and shape of each result
    op_name: str  # name of the JAX operation

    @property
    def bytes(self) -> int:
        """Bytes of the results, summed over all executions."""
        return self.num_executions * sum(_item_size(dtype) * math.prod(shape) for dtype, shape in self.shapes)


def _item_size(dtype: str) -> int:
    return 1 if dtype == "pred" else int(re.sub(r"\D", "", dtype)) // 8


def collectives(compiled_text: str) -> list[Collective]:
    """All collectives of a compiled program, largest first."""
    computation, bodies = "", {}  # bodies: name of a computation -> its lines
    for line in compiled_text.splitlines():
        header = _NAME.match(line.removeprefix("ENTRY ")) if not line.startswith(" ") else None
        computation = header[1] if header else computation
        bodies.setdefault(computation, []).append(line)
    callers = {}  # name of a computation -> name of its caller, executions per execution of the caller
    for name, lines in bodies.items():
        for line in lines:
            trip_count = _TRIP_COUNT.search(line)
            branches = _BRANCHES.search(line)
            callees = _CALLED.findall(line) + (re.findall(r"[\w.-]+", branches[1]) if branches else [])
            for callee in callees:
                callers[callee] = (name, int(trip_count[1]) if trip_count and "body=" in line else 1)

    def num_executions(name: str) -> int:
        caller, executions = callers.get(name, ("", 1))
        return executions * num_executions(caller) if caller else 1

    result = []
    for name, lines in bodies.items():
        for line in lines:
            match = _COLLECTIVE.search(line)
            if match:
                text = re.sub(r"/\*.*?\*/", "", match["shapes"])
                shapes = tuple(
                    (dtype, tuple(int(size) for size in sizes.split(",") if size))
                    for dtype, sizes in _SHAPE.findall(text)
                )
                op_name = re.search(r'op_name="([^"]*)"', line)
                result.append(Collective(match["kind"], num_executions(name), shapes, op_name[1] if op_name else ""))
    return sorted(result, key=lambda collective: -collective.bytes)
