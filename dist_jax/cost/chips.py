"""Accelerators: peak, memory, clock; the TPU slices that can be rented."""

import dataclasses
import math
import re

from dist_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class TpuChip:
    """One generation of TPUs. JAX has one device per chip in all of them."""

    name: str
    peak_flops: float  # dense bfloat16 FLOP per second
    memory: int  # bytes of HBM that libtpu gives to a program
    memory_bandwidth: float  # bytes per second
    link_bandwidth: float  # bytes per second of all links to other chips together, in one direction
    clock: float  # cycles per second
    slices: dict[int, str]  # number of chips -> physical topology of the slice
    hosts: dict[int, int]  # chips of a host -> its vCPUs; hosts of larger slices have four chips each
    has_two_cores: bool = False  # JAX uses both as one device; the number in the name of a slice counts cores


def _slices(*topologies: str) -> dict[int, str]:
    return {math.prod(map(int, topology.split("x"))): topology for topology in topologies}


_FLAT = _slices("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = _slices("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")

_GIB = 2**30
# Peak, bandwidths, slices, machine types: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e. Memory: the limit in the message
# of libtpu 0.0.42 for a program that is too large. Clock: v4 from arXiv 2304.01433, table 4; the others are the peak
# divided by the operations per cycle: 2^17 (v5e), 2^18 (v5p) and 2^19 (v6e). For a product of two matrices
# of 8192 x 8192, libtpu estimates 88 % (v5e), 70 % (v6e), 90 % (v5p) and 93 % (v4) of the peak.
TPU_CHIPS = {
    chip.name: chip
    for chip in (
        TpuChip("v4", 275e12, int(30.75 * _GIB), 1228e9, 300e9, 1.05e9, _CUBES, {4: 240}, has_two_cores=True),
        TpuChip("v5e", 197e12, int(15.75 * _GIB), 819e9, 200e9, 1.5e9, _FLAT, {1: 24, 4: 112, 8: 224}),
        TpuChip("v5p", 459e12, int(95.74 * _GIB), 2765e9, 600e9, 1.75e9, _CUBES, {4: 208}, has_two_cores=True),
        TpuChip("v6e", 918e12, int(31.25 * _GIB), 1640e9, 448e9, 1.75e9, _FLAT, {1: 44, 4: 180, 8: 180}),
    )
}
_ALIASES = {"v5litepod": "v5e"}  # in gcloud


@dataclasses.dataclass(frozen=True)
class TpuSlice:
    """A TPU slice."""

    chip: TpuChip
    topology: str  # e.g. 8x8

    @property
    def num_chips(self) -> int:
        """Number of chips."""
        return math.prod(map(int, self.topology.split("x")))

    @property
    def num_hosts(self) -> int:
        """Number of hosts."""
        return 1 if self.num_chips in self.chip.hosts else self.num_chips // 4

    @property
    def cores_per_host(self) -> int:
        """vCPUs of each host."""
        return self.chip.hosts[self.num_chips // self.num_hosts]

    def __str__(self) -> str:
        size = self.num_chips * (2 if self.chip.has_two_cores else 1)
        chips, hosts = _count(self.num_chips, "chip"), _count(self.num_hosts, "host")
        return f"{self.chip.name}-{size} ({self.topology}, {chips}, {hosts})"


def parse_slice(name: str) -> TpuSlice:
    """Finds a slice by the name under which it is rented (v5e-64) or by libtpu's name (v5e:8x8).

    Raises:
        UserError: there is no such slice; lists those that exist.
    """
    match = re.fullmatch(r"(\w+)(?:-(\d+)|:(\d+(?:x\d+){1,2}))", name)
    chip = TPU_CHIPS.get(_ALIASES.get(match[1], match[1])) if match else None
    if match is None or chip is None:
        raise UserError(f"--topology={name}: unknown; the known TPU slices are {known_slices(*TPU_CHIPS.values())}")
    cores_per_chip = 2 if chip.has_two_cores else 1
    by_name = {str(num_chips * cores_per_chip): topology for num_chips, topology in chip.slices.items()}
    topology = by_name.get(match[2]) if match[2] else match[3] if match[3] in by_name.values() else None
    if topology is None:
        raise UserError(
            f"--topology={name}: there is no such slice; the known {chip.name} slices are {known_slices(chip)}"
        )
    return TpuSlice(chip, topology)


def known_slices(*chips: TpuChip) -> str:
    """Names of the slices, e.g. "v5e-1, 4, 8 (v5e:1x1, 2x2, 2x4)"."""
    parts = []
    for chip in chips:
        sizes = [str(size * (2 if chip.has_two_cores else 1)) for size in chip.slices]
        unit = " cores" if chip.has_two_cores else ""
        parts.append(f"{chip.name}-{', '.join(sizes)}{unit} ({chip.name}:{', '.join(chip.slices.values())})")
    return "; ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"
