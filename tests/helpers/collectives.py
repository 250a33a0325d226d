"""What a compiled program sends between devices, read from its text."""

import dataclasses
import math
import re

_KINDS = "all-reduce|all-gather|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast|reduce-scatter"
_COLLECTIVE = re.compile(rf"= (?P<shapes>.*?) (?P<kind>{_KINDS})(-start)?\(")
_SHAPE = re.compile(r"\b(pred|[sufb]+\d+)\[([\d,]*)\]")
_NAME = re.compile(r"%?([\w.-]+) \(.*\{$")
_CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count.{1,6}n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction."""

    kind: str
    times: int  # how often a run of the program executes it: the product of the loops around it
    shapes: tuple[tuple[str, tuple[int, ...]], ...]  # dtype and shape of its results
    op_name: str  # what it was compiled from

    @property
    def bytes(self) -> int:
        """Of its results, over all times."""
        width = lambda dtype: 1 if dtype == "pred" else int(re.sub(r"\D", "", dtype)) // 8
        return self.times * sum(width(dtype) * math.prod(shape) for dtype, shape in self.shapes)


def collectives(compiled_text: str) -> list[Collective]:
    """All of them, by the bytes that they send."""
    inside, bodies = "", {}
    for line in compiled_text.splitlines():
        header = _NAME.match(line.removeprefix("ENTRY ")) if not line.startswith(" ") else None
        inside = header[1] if header else inside
        bodies.setdefault(inside, []).append(line)
    callers = {}
    for name, lines in bodies.items():
        for line in lines:
            trips = _TRIPS.search(line)
            branches = _BRANCHES.search(line)
            called_here = _CALLED.findall(line) + (re.findall(r"[\w.-]+", branches[1]) if branches else [])
            for called in called_here:
                callers[called] = (name, int(trips[1]) if trips and "body=" in line else 1)

    def times(name: str) -> int:
        caller, trips = callers.get(name, ("", 1))
        return trips * times(caller) if caller else 1

    found = []
    for name, lines in bodies.items():
        for line in lines:
            match = _COLLECTIVE.search(line)
            if match:
                text = re.sub(r"/\*.*?\*/", "", match["shapes"])
                shapes = tuple((d, tuple(int(n) for n in s.split(",") if n)) for d, s in _SHAPE.findall(text))
                op_name = re.search(r'op_name="([^"]*)"', line)
                found.append(Collective(match["kind"], times(name), shapes, op_name[1] if op_name else ""))
    return sorted(found, key=lambda one: -one.bytes)
