"""What a workdir says about a run: settings, metrics of an evaluation, speed and memory of the training."""

import dataclasses
import json
import os
import statistics
from typing import Any

from etils import epath

from dist_jax.errors import UserError
from dist_jax.evaluation.results import is_metric
from dist_jax.files import is_remote, read_text
from dist_jax.workdir.run_metadata import RUN_FILE, RunMetadata, read_run_metadata

COUNTS = ("step", "views", "videos")  # numbers in results/NAME.json that are not metrics


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """A run and one of its evaluations. None: the workdir does not contain the value."""

    name: str  # of the workdir's folder
    metadata: RunMetadata
    metrics: dict[str, float]  # metric -> value
    step: int | None  # training step of the evaluated parameters
    views: int | None  # views and crops per video
    videos: int | None  # evaluated videos
    classes: list[str] | None  # names of the evaluated classes
    step_seconds: float | None  # median over the lines of metrics.jsonl
    memory: int | None  # peak memory of a device in the training, bytes

    @property
    def network(self) -> str | None:
        """The value of config.model.network."""
        return self.metadata.config.get("model", {}).get("network")

    @property
    def epochs(self) -> float | None:
        """Passes over the training records before the evaluated step."""
        if self.step is None or not self.metadata.num_records:
            return None
        return self.step * self.metadata.config["batch_size"] / self.metadata.num_records


def read_run(workdir: str, results: str) -> RunSummary:
    """Reads a workdir and one of its evaluations.

    Args:
        workdir: of a training run or an evaluation.
        results: name of a file in WORKDIR/results without ".json". Empty: "val", or "evaluate" if there is no "val".

    Raises:
        UserError: no workdir of a run, no such evaluation, or a damaged file.
    """
    folder = epath.Path(workdir) / "results"
    if not (epath.Path(workdir) / RUN_FILE).exists() and not any(folder.glob("*_run.json")):
        raise UserError(f"{workdir} has no {RUN_FILE}; name the --workdir of a training run or an evaluation")
    if not results:
        has_only_evaluate = (folder / "evaluate.json").exists() and not (folder / "val.json").exists()
        results = "evaluate" if has_only_evaluate else "val"
    report = _read_report(workdir, results)
    # An evaluation without training writes its settings next to its results.
    metadata = read_run_metadata(workdir) or read_run_metadata(folder, f"{results}_run.json")
    if metadata is None:
        raise UserError(f"{folder / results}_run.json is missing; evaluate again")
    lines = _read_metrics(epath.Path(workdir) / "metrics.jsonl")
    speeds = [line["clips_per_second"] for line in lines if line.get("clips_per_second")]
    peaks = [line["device_memory_peak"] for line in lines if "device_memory_peak" in line]
    numbers = {name: value for name, value in report.items() if _is_number(value)}
    return RunSummary(
        name=os.path.basename((workdir if is_remote(workdir) else os.path.abspath(workdir)).rstrip("/")),
        metadata=metadata,
        metrics={name: float(value) for name, value in numbers.items() if name not in COUNTS and is_metric(name)},
        **{name: numbers.get(name) for name in COUNTS},
        classes=report.get("classes"),
        step_seconds=metadata.config["batch_size"] / statistics.median(speeds) if speeds else None,
        memory=int(max(peaks)) if peaks else None,
    )


def _read_report(workdir: str, results: str) -> dict[str, Any]:
    """The content of results/NAME.json. Raises the errors of `read_run`."""
    folder = epath.Path(workdir) / "results"
    file = folder / f"{results}.json"
    if not file.exists():
        names = [path.stem for path in folder.glob("*.json")] if folder.exists() else []
        names = sorted(name for name in names if not name.endswith(("_run", "_splits")))
        if not names:
            raise UserError(f"{workdir} has no results; evaluate it: python -m dist_jax.main --evaluate")
        raise UserError(f"{file} does not exist; use --results with one of {', '.join(names)}")
    try:
        report = json.loads(read_text(str(file)))
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); evaluate again") from error
    if not isinstance(report, dict):
        raise UserError(f"{file} is not an evaluation of dist_jax; evaluate again")
    return report


def _read_metrics(file: epath.Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; none if the file does not exist, e.g. for an evaluation without training."""
    lines = []
    for number, line in enumerate(read_text(str(file)).splitlines() if file.exists() else (), 1):
        try:
            lines.append(dict(json.loads(line)))
        except (TypeError, ValueError) as error:
            raise UserError(f"{file}, line {number}: not a JSON object ({error}); remove this line") from error
    return lines


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
