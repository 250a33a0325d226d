"""The Python scripts: the numbers of estimate_cost, command lines, and what the documentation shows."""

import argparse
import dataclasses
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from helpers.launchers import ROOT

from dist_jax.models.dist_network import DistConfig, DistNetwork
from scripts import estimate_cost


@pytest.mark.parametrize("name", ["vitb16-8+16", "vitl14-32+64"])
def test_estimated_dist_operations_match_the_compiled_network(name):
    # One layer of each kind: XLA counts the body of a loop once.
    m = dataclasses.replace(estimate_cost.MODELS[name], L=1, P=1)
    config = DistConfig(m.T, m.T // m.S, (0,), m.patch, m.D, m.E, m.C, m.M, m.P)
    network = DistNetwork(config)
    features = jax.ShapeDtypeStruct((m.L, 1, m.S, 1 + m.N, m.D), jnp.float32)
    video = jax.ShapeDtypeStruct((1, m.T, 224, 224, 3), jnp.float32)
    summary = jax.ShapeDtypeStruct((1, m.S, m.D), jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), features, summary, video)
    counted = jax.jit(network.apply).lower(params, features, summary, video).cost_analysis()["flops"]
    # XLA also counts additions, activations and norms, and omits products with padding.
    assert estimate_cost.dist_flops(m) == pytest.approx(counted, rel=0.01)


def test_estimated_clip_operations_match_the_published_ones():
    # Multiply-adds per frame of 224 x 224 pixels: ViT-B/16 17.6 G, ViT-L/14 81 G.
    per_frame = {name: estimate_cost.clip_flops(m) / m.S / 2e9 for name, m in estimate_cost.MODELS.items()}
    assert per_frame["vitb16-8+16"] == pytest.approx(17.6, rel=0.01)
    assert per_frame["vitl14-32+64"] == pytest.approx(81.0, rel=0.01)


def test_hours_and_cost_match_a_manual_computation(monkeypatch):
    model = estimate_cost.Model(patch=16, N=196, D=768, L=12, T=16, S=8, E=512)
    machine = estimate_cost.Machine("two", "two", 2, 1e12, 3.0)
    assert estimate_cost.hours(machine, 3600 * 1e12, utilisation=0.5) == 1.0
    forward = estimate_cost.clip_flops(model) + estimate_cost.dist_flops(model)
    backward = 2 * estimate_cost.dist_flops(model)
    run = estimate_cost.run_flops(model, clips=10, epochs=2, val_videos=5, num_views=3, evaluations=1)
    assert run == pytest.approx(20 * (forward + backward) + 15 * forward)
    monkeypatch.setattr(estimate_cost, "MACHINES", (machine,))
    args = estimate_cost._parser().parse_args(["--price=two=4", "--utilisation=0.5"])
    row = estimate_cost.report(args)[-1].split(" | ")
    assert row[4] == "4.00"
    assert float(row[5].rstrip(" |")) == pytest.approx(float(row[1]) * 8, rel=0.01)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--clips=0"],
        ["--val-videos=0"],
        ["--eval-every-epochs=-1"],
        ["--epochs=-1"],
        ["--utilisation=1.5"],
        ["--price=v5e"],
        ["--price=v5=1"],
        ["--price=v5e=nan"],
    ],
)
def test_estimate_cost_refuses_invalid_values_in_one_line(arguments):
    command = [sys.executable, "-m", "scripts.estimate_cost", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {arguments[0]}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("script", ["soak", "bench_input", "estimate_cost"])
def test_documented_command_line_starts(script):
    docs = (ROOT / "docs/launch.md").read_text()
    assert f"python -m scripts.{script}" in docs
    assert f"scripts/{script}.py" not in docs
    command = [sys.executable, "-m", f"scripts.{script}", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    options = re.findall(r"^  (--[a-z_-]+)", result.stdout, re.M)
    assert [option for option in options if "_" in option] == []


def test_documented_costs_equal_the_output():
    args: argparse.Namespace = estimate_cost._parser().parse_args([])
    assert "\n".join(estimate_cost.report(args)) in (ROOT / "docs/launch.md").read_text()
