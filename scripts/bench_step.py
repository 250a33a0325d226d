"""Measures the training step: time, operations, memory. With --topology, estimates it for a TPU slice without a TPU.

    python -m scripts.bench_step --config=configs/k400_vitb.py --config.batch_size=2 [--steps=5] [--json=F] [--png=F]
    python -m scripts.bench_step --config=configs/k400_vitb.py --topology=v5e:2x4

Programs: `frozen forward` (the backbone alone), `train` (DiST), `full fine-tuning` (all parameters of the same
backbone, averaged frames, the same optimizer) and, where PyTorch is installed, the PyTorch reference network of tests/.
Each one runs in its own process. Weights and data are random: they do not change the time.
"""

import dataclasses
import importlib.util
import json
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import jax
import ml_collections
from absl import app, flags
from ml_collections import config_flags

from dist_jax import command_line
from dist_jax.cost import abstract, measure, programs, topology
from dist_jax.cost.chips import TpuSlice, parse_slice
from dist_jax.distributed.mesh import make_mesh
from dist_jax.errors import UserError, exit_with_message
from dist_jax.training import memory
from scripts import step_tables, torch_step

EXAMPLE = "--config=configs/k400_vitb.py --config.batch_size=2"
CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration, e.g. configs/k400_vitb.py.", lock_config=True)
TOPOLOGY = flags.DEFINE_string("topology", None, "TPU slice, e.g. v5e:2x4: compile for it instead of running here.")
STEPS = flags.DEFINE_integer("steps", 5, "Measured steps of each program.", lower_bound=1)
PROGRAMS = flags.DEFINE_list("programs", None, f"Some of: {', '.join(programs.PROGRAMS)}, {torch_step.PROGRAM}.")
ROWS = flags.DEFINE_integer("rows", 15, "With --topology: number of instructions to list.", lower_bound=0)
JSON = flags.DEFINE_string("json", None, "Also writes the results to this file.")
PNG = flags.DEFINE_string("png", None, "Also plots the results into this file.")


def main(argv: Sequence[str]) -> None:
    """Measures or estimates the programs, and prints and writes the results."""
    if len(argv) > 1:
        raise UserError(f"unexpected arguments {' '.join(argv[1:])}; a flag is --NAME=VALUE, e.g. {EXAMPLE}")
    config = command_line.read_config(flags.FLAGS, EXAMPLE)
    names = chosen_programs()
    for flag in (JSON, PNG):  # measuring takes minutes: check the files before
        if flag.value and not Path(flag.value).parent.is_dir():
            raise UserError(f"--{flag.name}={flag.value}: this folder does not exist")
    report = estimate(config, parse_slice(TOPOLOGY.value), names) if TOPOLOGY.value else run(config, names)
    if JSON.value:
        Path(JSON.value).write_text(json.dumps(report, indent=2) + "\n")
    if PNG.value:
        step_tables.plot(report, PNG.value)


def chosen_programs() -> list[str]:
    """The programs of --programs. Raises UserError for an unknown one."""
    can_run_torch = importlib.util.find_spec("torch") is not None and not TOPOLOGY.value
    possible = [*programs.PROGRAMS, *[torch_step.PROGRAM] * can_run_torch]
    names = possible if PROGRAMS.value is None else PROGRAMS.value
    unknown = [name for name in names if name not in possible]
    if unknown or not names:
        raise UserError(f"--programs={','.join(names)}: must be some of {', '.join(possible)} (the last needs PyTorch)")
    return names


def run(config: ml_collections.ConfigDict, names: list[str]) -> dict:
    """Measures the programs on the devices of this machine, each in its own process."""
    report = in_own_process(measure_device, config.to_dict()) | {"batch_size": config.batch_size, "programs": []}
    print(step_tables.measurement_header(report), flush=True)
    for name in names:
        try:
            row = in_own_process(measure_program, config.to_dict(), name, STEPS.value)
        except BrokenProcessPool:
            row = {"name": name, "does_not_fit": "its process died; systems end processes that need too much memory"}
        if row.get("flops"):
            row["share_of_peak"] = row["flops"] / row["median"] / report["peak_flops"]
        report["programs"].append(row)
        print(step_tables.measurement_line(row), flush=True)
    return report


def in_own_process(function: Callable[..., dict], *arguments: object) -> dict:
    """The result of a function in a new process. This process must not start JAX: it would keep device memory.

    Raises:
        BrokenProcessPool: the process died.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure_device(settings: dict) -> dict:
    """The device and its peak."""
    config = ml_collections.ConfigDict(settings)
    peak, source = measure.peak_flops(abstract.setup(config, make_mesh(config.mesh)).model.dtype)
    return {"device": jax.devices()[0].device_kind, "peak_flops": peak, "peak_source": source}


def measure_program(settings: dict, name: str, num_steps: int) -> dict:
    """One row of the report."""
    config = ml_collections.ConfigDict(settings)
    setup = abstract.setup(config, make_mesh(config.mesh))
    try:
        if name == torch_step.PROGRAM:
            num_classes = sum(setup.num_classes.values())
            vision = abstract.image_tower(config.backbone).vision
            result = torch_step.measure(vision, setup.model.dist, config.batch_size, num_classes, num_steps)
        else:
            result = measure.measure(name, setup, num_steps)
    except memory.TooLarge as error:
        return {"name": name, "does_not_fit": str(error)}
    row = {"name": name, "batch_size": config.batch_size, "median": result.median, "share_of_peak": None}
    return row | dataclasses.asdict(result)


def estimate(config: ml_collections.ConfigDict, tpu_slice: TpuSlice, names: list[str]) -> dict:
    """Compiles the programs for a TPU slice."""
    jax.config.update("jax_platforms", "cpu")  # the accelerators of this machine are not used
    setup = abstract.setup(config, make_mesh(config.mesh, topology.devices(tpu_slice)))
    report: dict = {"batch_size": config.batch_size, "topology": str(tpu_slice), "programs": []}
    print(step_tables.estimate_header(report, tpu_slice), flush=True)
    for name in names:
        try:
            cost = programs.compile_cost(programs.trace(name, setup), tpu_slice.chip, programs.module_names(name))
        except memory.TooLarge as error:
            report["programs"].append({"name": name, "does_not_fit": programs.needed_memory(error)})
        else:
            report["programs"].append(step_tables.estimate_row(name, cost, tpu_slice, ROWS.value))
        print(step_tables.estimate_line(report["programs"][-1]), flush=True)
    for row in report["programs"]:
        print("\n".join(step_tables.cycle_tables(row)), flush=True)
    return report


def parse_flags(argv: list[str]) -> list[str]:
    """The flag parser for `app.run`. Raises UserError for invalid flags."""
    return command_line.parse_flags(flags.FLAGS, argv)


if __name__ == "__main__":
    exit_with_message(lambda: app.run(main, argv=sys.argv, flags_parser=parse_flags))
