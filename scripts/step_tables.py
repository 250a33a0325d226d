"""Text tables and the plot of `scripts.bench_step`."""

import matplotlib

matplotlib.use("Agg")

from collections.abc import Callable
from typing import Any

from matplotlib import pyplot as plt

from dist_jax.cost import run_estimate
from dist_jax.cost.chips import TpuSlice
from dist_jax.cost.programs import Cost

Row = dict[str, Any]  # one program of a report
_GIB = 2**30


# Columns: title, cell of a row.
_MEASURED: dict[str, Callable[[Row], str]] = {
    "s/step": lambda row: f"{row['median']:.3f}",
    "fastest": lambda row: f"{min(row['seconds']):.3f}",
    "slowest": lambda row: f"{max(row['seconds']):.3f}",
    "clips/s": lambda row: f"{row['batch_size'] / row['median']:.3g}",
    "GFLOP": lambda row: _number(row["flops"], 1e9),
    "rate": lambda row: f"{row['share_of_peak']:.1%}" if row["share_of_peak"] else "",
    "GB moved": lambda row: _number(row["bytes"], 1e9),
    "arguments": lambda row: _number(row["arguments"], _GIB),
    "temporary": lambda row: _number(row["temporary"], _GIB),
    "peak": lambda row: _number(row["peak_memory"], _GIB),
    "compile s": lambda row: f"{row['compile_seconds']:.0f}",
}
_ESTIMATED: dict[str, Callable[[Row], str]] = {
    "M cycles": lambda row: f"{row['cycles'] / 1e6:.1f}",
    "ms": lambda row: f"{1e3 * row['seconds']:.1f}",
    "TFLOP": lambda row: f"{row['flops'] / 1e12:.2f}",
    "rate": lambda row: f"{row['share_of_peak']:.1%}",
    "GB moved": lambda row: f"{row['bytes'] / 1e9:.1f}",
    "arguments": lambda row: _number(row["arguments"], _GIB),
    "temporary": lambda row: _number(row["temporary"], _GIB),
    "compile s": lambda row: f"{row['compile_seconds']:.0f}",
    "collectives": lambda row: f"  {row['collectives']}",
}


def measurement_header(report: Row) -> str:
    """Device and column names of the measurements."""
    return (
        f"{report['device']}, batch_size={report['batch_size']}; median time; memory in GiB\n"
        f"rate: share of {report['peak_flops'] / 1e12:.3g} TFLOP/s ({report['peak_source']})\n\n"
        f"{_header(_MEASURED)}"
    )


def estimate_header(report: Row, tpu_slice: TpuSlice) -> str:
    """Slice and column names of the estimates."""
    chip = tpu_slice.chip
    clips = report["batch_size"] / tpu_slice.num_chips
    return (
        f"{tpu_slice}, batch_size={report['batch_size']}; everything per chip ({clips:g} clips), memory in GiB\n"
        "Memory and collectives are exact. Cycles are estimates of the TPU compiler, not measurements; collectives\n"
        f"have none. Clock: {chip.clock / 1e9:g} GHz; rate: share of {chip.peak_flops / 1e12:g} TFLOP/s (bfloat16).\n\n"
        f"{_header(_ESTIMATED)}"
    )


def measurement_line(row: Row) -> str:
    """One measured program."""
    return _line(_MEASURED, row)


def estimate_line(row: Row) -> str:
    """One estimated program."""
    return _line(_ESTIMATED, row)


def estimate_row(name: str, cost: Cost, tpu_slice: TpuSlice, num_instructions: int) -> Row:
    """One estimated program, per chip."""
    chip, cycles = tpu_slice.chip, cost.cycles
    seconds, operations = cycles.total / chip.clock, cost.flops / tpu_slice.num_chips
    return {
        "name": name,
        "cycles": cycles.total,
        "seconds": seconds,
        "flops": operations,
        "share_of_peak": operations / seconds / chip.peak_flops,
        "bytes": cost.bytes,
        "arguments": cost.memory.arguments,
        "temporary": cost.memory.temporary,
        "compile_seconds": cost.compile_seconds,
        "collectives": run_estimate.collective_summary(cost.collectives),
        "by_module": cycles.by_module,
        "uncounted": cycles.uncounted,
        "instructions": [vars(row) for row in cycles.instructions[:num_instructions]],
    }


def cycle_tables(row: Row) -> list[str]:
    """Cycles of a program by module and by instruction."""
    if "does_not_fit" in row:
        return []
    total = row["cycles"]
    lines = ["", f"{row['name']}: M cycles by module"]
    lines += [f"{cycles / 1e6:9.1f} {cycles / total:6.1%}  {name}" for name, cycles in row["by_module"].items()]
    lines += [f"{'':9} {'':6}  not estimated: {name} x {times}" for name, times in row["uncounted"].items()]
    if row["instructions"]:
        lines += ["", f"{row['name']}: the most expensive instructions (M cycles, share, executions)"]
    for item in row["instructions"]:
        operation = "/".join(item["op_name"].split("/")[-3:])
        lines.append(
            f"{item['cycles'] / 1e6:9.2f} {item['cycles'] / total:6.1%} x{item['times']:<4} {item['source']:36} "
            f"{operation}  {item['shape'][:48]}  {item['name']}"
        )
    return lines


def plot(report: Row, path: str) -> None:
    """Bars of time (or cycles by module) and of memory."""
    rows = [row for row in report["programs"] if "does_not_fit" not in row]
    names = [row["name"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 1.5 + 0.6 * max(len(rows), 3)), layout="constrained")
    if "topology" in report:
        modules = list(dict.fromkeys(module for row in rows for module in row["by_module"]))
        start = [0.0] * len(rows)
        for module in modules:
            values = [row["by_module"].get(module, 0) / 1e6 for row in rows]
            left.barh(names, values, left=start, label=module)
            start = [before + value for before, value in zip(start, values, strict=True)]
        left.legend(fontsize="small")
        left.set_xlabel("million cycles per step, estimated by the compiler")
    else:
        medians = [row["median"] for row in rows]
        spread = [
            [row["median"] - min(row["seconds"]) for row in rows],
            [max(row["seconds"]) - row["median"] for row in rows],
        ]
        left.barh(names, medians, xerr=spread)
        left.set_xlabel("seconds per step: median, fastest, slowest")
    temporary = [(row["temporary"] or 0) / _GIB for row in rows]
    arguments = [(row["arguments"] or 0) / _GIB for row in rows]
    right.barh(names, arguments, label="arguments")
    right.barh(names, temporary, left=arguments, label="temporary")
    right.set_xlabel("GiB per device, counted by the compiler")
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.invert_yaxis()
    figure.suptitle(f"{report.get('topology') or report['device']}, batch size {report['batch_size']}")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _header(columns: dict[str, Callable[[Row], str]]) -> str:
    return f"{'program':18}" + "".join(f"{title:>11}" for title in columns)


def _line(columns: dict[str, Callable[[Row], str]], row: Row) -> str:
    if "does_not_fit" in row:
        return f"{row['name']:18}  does not fit: {row['does_not_fit']}"
    return f"{row['name']:18}" + "".join(f"{cell(row):>11}" for cell in columns.values())


def _number(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:.2f}"
