"""Compares runs: accuracy, trained parameters, operations, time or estimated cycles of a training step, memory, epochs.

    python -m dist_jax.compare RUN [RUN ...] [--results NAME] [--output comparison] [--topology v5e:2x4]

RUN is the workdir of a training run or of an evaluation. Prints a Markdown table with one row per run. With
--output NAME, it also writes NAME.md, NAME.csv and NAME.png (accuracy against operations). A cell is empty if the
workdir does not contain its value.

--topology compiles the training step of each run for a TPU slice (minutes per run; needs no TPU but its compiler:
pip install "jax[tpu]") and adds the cycles that the compiler estimates, and the compiled memory of runs without a
measured one.
"""

import argparse
import csv
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from dist_jax.cost import run_network, slice_cost, topology
from dist_jax.cost.chips import TpuSlice, parse_slice
from dist_jax.cost.programs import Cost
from dist_jax.errors import UserError, exit_with_message
from dist_jax.evaluation.result_plots import plot_points
from dist_jax.evaluation.run_summary import RunSummary, read_run
from dist_jax.evaluation.tables import markdown_table
from dist_jax.files import user_path, write_text
from dist_jax.workdir.run_metadata import RunMetadata

CAPTION = (
    "GFLOPs: 10^9 operations of the forward pass of one view, frozen backbone and trained network; a multiply-add "
    "counts as two. Seconds per step: median of the training, with input, on the devices of the run. "
    "Memory: peak of a device in the training."
)
ESTIMATE_CAPTION = (
    "Estimated cycles: of a training step with the run's batch size on one chip of {}, as the TPU compiler estimates "
    "them (not measured); without training, of the backbone's forward pass. Compiled memory: of a chip in this step."
)


class Row(NamedTuple):
    """One run of the table. None: unknown."""

    name: str
    run: RunSummary
    trainable: int | None  # trained parameters
    operations: int | None  # per view, a multiply-add counts as two
    cost: Cost | None  # of a training step on the slice of --topology
    problems: list[str]  # why values are unknown


Cell = str | int | float | None
Computations = dict[str, Callable[[RunMetadata], Any]]  # name of a value -> its computation


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command with the arguments `argv`; default: those of the process."""
    args = _parser().parse_args(argv)
    if os.path.basename(args.results) != args.results:
        raise UserError(f"--results {args.results}: must be the name of a file in RUN/results, without .json")
    jax.config.update("jax_platforms", "cpu")  # the accelerators of this machine may be in use
    tpu_slice = parse_slice(args.topology) if args.topology else None
    rows = read_rows(args.runs, args.results, tpu_slice)
    text = as_markdown(rows, tpu_slice)
    print(text, end="")
    if args.output:
        write_text(f"{args.output}.md", text)
        write_text(f"{args.output}.csv", as_csv(rows))
        for line in write_plot(rows, f"{args.output}.png"):
            print(line)


def read_rows(workdirs: Sequence[str], results: str, tpu_slice: TpuSlice | None = None) -> list[Row]:
    """Reads the runs, counts their parameters and operations, and compiles their steps for a slice if there is one.

    Raises:
        UserError: see `run_summary.read_run` and `topology.devices`.
    """
    paths = [os.path.realpath(workdir) for workdir in workdirs]
    duplicates = [workdir for workdir, path in zip(workdirs, paths, strict=True) if paths.count(path) > 1]
    if duplicates:
        raise UserError(f"the same run is given several times: {', '.join(duplicates)}; remove all but one")
    values: Computations = {"parameters": run_network.count_trainable, "GFLOPs": run_network.count_operations}
    if tpu_slice:
        devices = topology.devices(tpu_slice)
        values["cycles"] = lambda metadata: slice_cost.run_cost(metadata, tpu_slice, devices)
    runs = [read_run(workdir, results) for workdir in workdirs]
    names = [run.name for run in runs]
    unique = len(set(names)) == len(names)
    return [_row(run.name if unique else workdir, run, values) for workdir, run in zip(workdirs, runs, strict=True)]


def _row(name: str, run: RunSummary, values: Computations) -> Row:
    found: dict[str, Any] = {}
    unknown: dict[str, list[str]] = {}  # problem -> names of values
    for value, compute in values.items():
        try:
            found[value] = compute(run.metadata)
        except UserError as error:
            unknown.setdefault(str(error), []).append(value)
    problems = [f"no {' and '.join(missing)}: {problem}" for problem, missing in unknown.items()]
    return Row(name, run, found.get("parameters"), found.get("GFLOPs"), found.get("cycles"), problems)


def metric_names(rows: Iterable[Row]) -> list[str]:
    """The metrics of all runs, without duplicates, in order."""
    return list(dict.fromkeys(itertools.chain.from_iterable(row.run.metrics for row in rows)))


def columns(row: Row, metrics: Sequence[str]) -> dict[str, Cell]:
    """Column name -> exact value."""
    run, cost = row.run, row.cost
    memory, source = (run.memory, "measured") if run.memory is not None else (None, None)
    if memory is None and cost is not None:
        memory, source = cost.memory.total, "compiled"
    return {
        "run": row.name,
        "network": run.network,
        "views": run.views,
        "videos": run.videos,
        **{name: run.metrics.get(name) for name in metrics},
        "trainable parameters": row.trainable,
        "GFLOPs per view": None if row.operations is None else row.operations / 1e9,
        "seconds per step": run.step_seconds,
        "estimated M cycles per step": None if cost is None else cost.cycles.total / 1e6,
        "memory (GiB)": None if memory is None else memory / 2**30,
        "memory is": source,
        "epochs": run.epochs,
    }


def as_csv(rows: Sequence[Row]) -> str:
    """The table as CSV, with exact values."""
    cells = [columns(row, metric_names(rows)) for row in rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(cells[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells)
    return stream.getvalue()


def as_markdown(rows: Sequence[Row], tpu_slice: TpuSlice | None) -> str:
    """The table as Markdown with rounded values, the meaning of its columns, and notes."""
    metrics = metric_names(rows)
    cells = [columns(row, metrics) for row in rows]
    table = markdown_table(
        list(cells[0]), [[_format(name, value, name in metrics) for name, value in row.items()] for row in cells]
    )
    captions = [CAPTION, *([ESTIMATE_CAPTION.format(tpu_slice)] if tpu_slice else [])]
    return "\n".join([table, *captions, *(f"Note: {note}." for note in notes(rows))]) + "\n"


def notes(rows: Sequence[Row]) -> list[str]:
    """What makes the runs incomparable, and why values are unknown."""
    found = []
    for what, values in (("videos", [row.run.videos for row in rows]), ("views", [row.run.views for row in rows])):
        different = sorted({value for value in values if value is not None})
        if len(different) > 1:
            found.append(f"the runs are evaluated on different numbers of {what}: {', '.join(map(str, different))}")
    if len({json.dumps(row.run.classes) for row in rows if row.run.classes is not None}) > 1:
        found.append("the runs are evaluated on different classes")
    return found + [f"{row.name}: {problem}" for row in rows for problem in row.problems]


def write_plot(rows: Sequence[Row], path: str) -> list[str]:
    """Writes the plot of the first metric against the operations. Returns notes about runs that are not in it."""
    metrics = metric_names(rows)
    complete = [row for row in rows if row.operations is not None and metrics and metrics[0] in row.run.metrics]
    missing = [row.name for row in rows if row not in complete]
    if complete:
        points = {row.name: ((row.operations or 0) / 1e9, 100 * row.run.metrics[metrics[0]]) for row in complete}
        plot_points(epath.Path(path), points, "GFLOPs per view", f"{metrics[0]} (%)")
        return [f"Note: not in {path}, no accuracy or GFLOPs: {', '.join(missing)}."] if missing else []
    return [f"Note: {path} is not written: no run has both accuracy and GFLOPs."]


def _format(name: str, value: Cell, is_metric: bool) -> str:
    if value is None:
        return ""
    if is_metric:
        return f"{value:.1%}"
    if name == "trainable parameters":
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dist_jax.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", type=user_path, nargs="+", metavar="RUN", help="workdir of a training run or an evaluation"
    )
    parser.add_argument(
        "--results",
        default="",
        help="name of a file in RUN/results, without .json; default: val (of the training), or else evaluate",
    )
    parser.add_argument("--output", type=user_path, default="", help="NAME of NAME.md, NAME.csv and NAME.png")
    parser.add_argument("--topology", default="", help="TPU slice to compile for, e.g. v5e-8 or v5e:2x4")
    return parser


if __name__ == "__main__":
    exit_with_message(main)
