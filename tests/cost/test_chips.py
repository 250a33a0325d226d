"""Names and sizes of TPU slices."""

import pytest

from dist_jax.cost.chips import TPU_CHIPS, parse_slice
from dist_jax.errors import UserError


@pytest.mark.parametrize(
    ("name", "topology", "num_chips", "num_hosts", "cores_per_host"),
    [
        ("v5e-64", "8x8", 64, 16, 112),
        ("v5e:8x8", "8x8", 64, 16, 112),
        ("v5litepod-8", "2x4", 8, 1, 224),
        ("v5e-1", "1x1", 1, 1, 24),
        ("v6e-16", "4x4", 16, 4, 180),
        ("v6e-8", "2x4", 8, 1, 180),
        ("v5p-8", "2x2x1", 4, 1, 208),  # the number counts cores, two per chip
        ("v5p-128", "4x4x4", 64, 16, 208),
        ("v4-32", "2x2x4", 16, 4, 240),
        ("v4:2x2x4", "2x2x4", 16, 4, 240),
    ],
)
def test_a_slice_has_the_name_of_its_rental_or_of_libtpu(name, topology, num_chips, num_hosts, cores_per_host):
    found = parse_slice(name)
    assert found.topology == topology
    assert (found.num_chips, found.num_hosts, found.cores_per_host) == (num_chips, num_hosts, cores_per_host)


def test_every_slice_prints_a_name_that_is_accepted():
    for chip in TPU_CHIPS.values():
        for num_chips, topology in chip.slices.items():
            name = str(parse_slice(f"{chip.name}:{topology}")).split()[0]
            assert parse_slice(name).num_chips == num_chips


@pytest.mark.parametrize("name", ["v7-8", "h100", "", "v5e", "v5e-", "64", "v5e:", "v5e-8x8", "V5E-64 "])
def test_an_unknown_topology_lists_the_known_ones(name):
    with pytest.raises(UserError, match=r"^--topology=.*v4-8, 16, .*v5e-1, 4, .*v5p-8, .*v6e-1, 4"):
        parse_slice(name)


@pytest.mark.parametrize("name", ["v5e-3", "v5e:3x3", "v5e-0", "v5p-9", "v5p-4", "v6e:2x2x1", "v5e-100000"])
def test_an_unknown_size_lists_those_of_the_chip(name):
    with pytest.raises(UserError, match=rf"there is no such slice; the known {name[:3]} slices are {name[:3]}-"):
        parse_slice(name)
