"""Devices of TPU slices, from libtpu."""

import importlib.util

import pytest

from dist_jax.cost import topology
from dist_jax.cost.chips import TpuSlice, parse_slice
from dist_jax.errors import UserError


def test_without_libtpu_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'^the TPU compiler is not installed; run pip install "jax\[tpu\]==[\d.]+"$'):
        topology.devices(parse_slice("v5e-8"))


@pytest.mark.parametrize("name", ["v5e-1", "v5e-4", "v5e-64", "v6e-16", "v5p-8", "v4-32"])
def test_a_slice_has_one_device_per_chip(name):
    pytest.importorskip("libtpu")
    assert len(topology.devices(parse_slice(name))) == parse_slice(name).num_chips


def test_a_topology_that_libtpu_refuses_is_named():
    pytest.importorskip("libtpu")
    with pytest.raises(UserError, match=r"^--topology=v5e:3x5: libtpu does not accept it \(INVALID_ARGUMENT"):
        topology.devices(TpuSlice(parse_slice("v5e-8").chip, "3x5"))
