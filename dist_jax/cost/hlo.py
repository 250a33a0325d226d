"""Reads the text of a compiled program: `jax.stages.Compiled.as_text()`."""

import dataclasses
import math
import re
from collections.abc import Iterator
from functools import cached_property

_HEADER = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+)(?: \(.*)? ?\{$")
_START = re.compile(r"\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = ")
_CALLED = re.compile(r"\b(body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\](\{[^}]*\})?")


@dataclasses.dataclass(frozen=True)
class Shape:
    """Shape of one array. Arrays on chip (memory space 1, S(1)) are not in the device's main memory."""

    dtype: str
    sizes: tuple[int, ...]
    on_chip: bool

    @property
    def bytes(self) -> int:
        """Size of the array, without padding."""
        bits = re.search(r"\d+", self.dtype)
        return math.prod(self.sizes) * (max(int(bits[0]) // 8, 1) if bits else 1)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a computation."""

    name: str
    opcode: str
    shape: str  # text; a tuple in parentheses
    operands: tuple[str, ...]  # names of instructions; of a constant or parameter: its text
    attributes: str  # text after the operands
    is_root: bool

    @property
    def arrays(self) -> list[Shape]:
        """Shapes of the results."""
        return [
            Shape(dtype, tuple(int(size) for size in sizes.split(",") if size), "S(1)" in layout)
            for dtype, sizes, layout in _SHAPE.findall(re.sub(r"/\*.*?\*/", "", self.shape))
        ]

    @property
    def op_name(self) -> str:
        """Path of the JAX operation, e.g. jit(step)/DistNetwork/layers/while/body/dot_general; empty if unknown."""
        return self._attribute(r'op_name="([^"]*)"')

    @property
    def estimated_cycles(self) -> int | None:
        """Cycles that the compiler estimates; None if it does not."""
        cycles = self._attribute(r'"estimated_cycles":"(\d+)"')
        # The compiler writes the largest integer where it has no estimate.
        return int(cycles) if cycles and int(cycles) < 10**13 else None

    @property
    def called(self) -> dict[str, str]:
        """Attribute -> name of the computation it calls; branches are "branch 0", "branch 1", ..."""
        called = dict(_CALLED.findall(self.attributes))
        branches = _BRANCHES.search(self.attributes)
        if branches:
            names = re.findall(r"[\w.\-]+", branches[1])
            called |= {f"branch {number}": name for number, name in enumerate(names)}
        return called

    def _attribute(self, pattern: str) -> str:
        match = re.search(pattern, self.attributes)
        return match[1] if match else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """A named sequence of instructions."""

    name: str
    instructions: dict[str, Instruction]  # by name, in order

    @cached_property
    def root(self) -> Instruction:
        """The instruction whose result is the result of the computation."""
        return next(instruction for instruction in self.instructions.values() if instruction.is_root)


@dataclasses.dataclass(frozen=True)
class Frame:
    """One entry of the stack of Python calls."""

    place: str  # file:line
    parent: int  # stack_frame_id of the caller


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program."""

    computations: dict[str, Computation]
    entry: str
    frames: dict[int, Frame]  # by stack_frame_id

    def source(self, instruction: Instruction, folder: str = "") -> str:
        """file:line of the Python code of an instruction: the innermost call in `folder`, if there is one.

        Empty if it is unknown.
        """
        match = re.search(r'source_file="([^"]*)" source_line=(\d+)', instruction.attributes)
        if match:
            return f"{match[1]}:{match[2]}"
        match = re.search(r"stack_frame_id=(\d+)", instruction.attributes)
        innermost = frame = self.frames.get(int(match[1])) if match else None
        while frame is not None and folder not in frame.place:
            frame = self.frames.get(frame.parent)
        found = frame or innermost
        return found.place if found else ""


def parse(text: str) -> Module:
    """Parses the text of a program.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    lines = text.splitlines()
    for line in lines:
        if not line.startswith(" "):
            header = _HEADER.match(line)
            if header and not line.startswith("HloModule"):
                current = Computation(header["name"], {})
                computations[current.name] = current
                entry = current.name if header["entry"] else entry
            continue
        if current is not None and (instruction := _instruction(line)):
            current.instructions[instruction.name] = instruction
    if not entry:
        raise ValueError("this text is not a compiled program: it has no ENTRY computation")
    return Module(computations, entry, _stack_frames(lines))


def _instruction(line: str) -> Instruction | None:
    start = _START.match(line)
    if not start:
        return None
    rest = line[start.end() :]
    shape_end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:shape_end], rest[shape_end + 1 :]
    opcode, _, _ = rest.partition("(")
    end = _closing(rest, len(opcode))
    inside = rest[len(opcode) + 1 : end]
    operands = (inside,) if opcode in ("constant", "parameter") else tuple(_names(inside))
    return Instruction(start["name"], opcode, shape, operands, rest[end + 1 :], bool(start["root"]))


def _closing(text: str, start: int) -> int:
    """Position of the parenthesis that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if depth == 0:
            return position
    raise ValueError(f"no closing parenthesis: {text[:100]}")


def _names(operands: str) -> Iterator[str]:
    """Names in a list of operands, which may contain their shapes: "f32[2,3]{1,0} %a, %b" -> a, b."""
    with_percent = re.findall(r"%([\w.\-]+)", operands)
    yield from with_percent or re.findall(r"([A-Za-z_][\w.\-]*)(?=\s*(?:,|$))", operands)


def _stack_frames(lines: list[str]) -> dict[int, Frame]:
    """Reads the tables FileNames, FileLocations and StackFrames in front of the computations."""
    tables: dict[str, dict[int, str]] = {}
    table: dict[int, str] = {}
    for line in lines:
        if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            table = tables.setdefault(line, {})
        elif entry := re.match(r"(\d+) (.*)$", line):
            table[int(entry[1])] = entry[2]
        elif line.startswith(("ENTRY", "%")):
            break

    def field(row: str, name: str) -> int:
        match = re.search(rf"\b{name}=(\d+)", row)
        return int(match[1]) if match else 0

    frames = {}
    for number, row in tables.get("StackFrames", {}).items():
        location = tables["FileLocations"].get(field(row, "file_location_id"), "")
        file = tables["FileNames"].get(field(location, "file_name_id"), "").strip('"')
        parent = field(row, "parent_frame_id") - 1  # the text has one more than the number of the frame
        frames[number] = Frame(f"{file}:{field(location, 'line')}", parent)
    return frames
