"""Run metadata in WORKDIR/run.json: the settings and the model of the run that a workdir belongs to."""

import dataclasses
import json
from typing import Any

from etils import epath

from dist_jax.errors import UserError, first_line

RUN_FILE = "run.json"
FORMAT_VERSION = 3  # version 2 had one list of class names (0.2); version 1 other setting names (before 0.2)

# Settings that readers of run.json use. Other settings may be missing.
_REQUIRED = ("seed", "batch_size", "ema_decay", "init_from", "checkpoint", "backbone")


@dataclasses.dataclass(frozen=True)
class RunMetadata:
    """Settings and model of a run. Another run can resume it only if the two have no `conflicts`."""

    config: dict[str, Any]  # the resolved configuration
    class_names: dict[str, list[str]]  # of each label, by label name, in the order of the class numbers
    backbone: dict[str, Any]  # "name" and "fingerprint" of the backbone's weights
    model: dict[str, Any]  # sizes of the DiST network
    num_records: int  # training records; with batch_size and seed it defines which records a step reads
    prompt_templates: list[str] = dataclasses.field(default_factory=list)  # of the texts; empty: the class names alone
    format_version: int = FORMAT_VERSION
    clip_seconds: float | None = None  # mean length of the training clips; None: unknown

    def conflicts(self, other: "RunMetadata") -> list[str]:
        """Reasons why `other` cannot resume this run, with both values; empty if it can."""
        problems = self.network_conflicts(other)
        if self.class_names.keys() != other.class_names.keys():
            own_labels, labels = (", ".join(run.class_names) for run in (self, other))
            problems.append(f"the labels are {labels} (workdir: {own_labels})")
        else:
            pairs = [(names, other.class_names[label]) for label, names in self.class_names.items()]
            problems += [_class_conflict(own_names, names) for own_names, names in pairs if own_names != names]
        if self.prompt_templates != other.prompt_templates:
            problems.append(f"the prompt templates are {other.prompt_templates} (workdir: {self.prompt_templates})")
        for name in ("seed", "batch_size"):
            if self.config[name] != other.config[name]:
                problems.append(f"{name} is {other.config[name]} (workdir: {self.config[name]})")
        if (self.config["ema_decay"] > 0) != (other.config["ema_decay"] > 0):
            problems.append(
                f"ema_decay is {other.config['ema_decay']} (workdir: {self.config['ema_decay']}), and a moving average "
                "cannot be switched on or off"
            )
        if self.num_records != other.num_records:
            problems.append(f"the number of training records is {other.num_records} (workdir: {self.num_records})")
        return problems

    def network_conflicts(self, other: "RunMetadata") -> list[str]:
        """Reasons why the parameters of this run do not fit the network of `other`."""
        problems = []
        if self.backbone["fingerprint"] != other.backbone["fingerprint"]:
            own_name, other_name = (f"{r.backbone['name']} ({r.backbone['fingerprint'][:12]})" for r in (self, other))
            problems.append(f"the backbone is {other_name} (workdir: {own_name})")
        own_quantize, other_quantize = (r.config["backbone"].get("quantize", "") for r in (self, other))
        if own_quantize != other_quantize:  # the network was trained on the features of its own setting
            problems.append(f"backbone.quantize is {other_quantize!r} (workdir: {own_quantize!r})")
        for name in self.model:
            if self.model[name] != other.model.get(name):
                problems.append(f"model {name} is {other.model.get(name)} (workdir: {self.model[name]})")
        return problems


def _class_conflict(own_names: list[str], other_names: list[str]) -> str:
    different = [i for i, (a, b) in enumerate(zip(own_names, other_names, strict=False)) if a != b]
    if not different:
        return f"the number of classes is {len(other_names)} (workdir: {len(own_names)})"
    first = different[0]
    return f"class {first} is {other_names[first]!r} (workdir: {own_names[first]!r})"


def make_workdir(workdir: epath.PathLike) -> None:
    """Creates the folder of a run. Raises UserError if it is a file or cannot be created."""
    try:
        epath.Path(workdir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot create this folder ({first_line(error)}); use another") from error


def read_run_metadata(folder: epath.PathLike, name: str = RUN_FILE) -> RunMetadata | None:
    """Reads the run metadata in a folder, by default run.json in a workdir; None if the file does not exist.

    Raises:
        UserError: the file is damaged, incomplete or of another format version.
    """
    file = epath.Path(folder) / name
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text())
        version = content.get("format_version", 1)
        if version == 2:
            content |= {"class_names": {content["config"]["data"]["label_key"]: content["class_names"]}}
            content |= {"format_version": FORMAT_VERSION}
        metadata = RunMetadata(**content) if version in (2, FORMAT_VERSION) else None
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise UserError(f"{file} is not run metadata of dist_jax ({error}); use another --workdir") from error
    if metadata is None:
        raise UserError(
            f"{file} has format version {version}, this dist_jax reads 2 and {FORMAT_VERSION}; use another --workdir "
            "or the version of dist_jax that wrote it"
        )
    required = (
        (metadata.config, _REQUIRED),
        (metadata.backbone, ("name", "fingerprint")),
        (metadata.model, ("num_frames", "layers")),
    )
    try:
        missing = [name for part, names in required for name in names if name not in part]
    except TypeError as error:
        raise UserError(f"{file} is not run metadata of dist_jax ({error}); use another --workdir") from error
    if missing:
        raise UserError(f"{file} is not run metadata of dist_jax ({', '.join(missing)} missing); use another --workdir")
    return metadata


def write_run_metadata(folder: epath.PathLike, metadata: RunMetadata, name: str = RUN_FILE) -> None:
    """Writes run metadata atomically: by default run.json of a workdir. Raises UserError if this fails."""
    file = epath.Path(folder) / name
    unfinished = file.with_suffix(".tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(dataclasses.asdict(metadata), indent=1))
        unfinished.replace(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({first_line(error)}); free space or use another folder") from error


def check_can_resume(workdir: epath.PathLike, metadata: RunMetadata) -> None:
    """Raises UserError if the workdir belongs to a different run."""
    existing = read_run_metadata(workdir)
    if existing is not None:
        raise_if_conflicts(workdir, existing.conflicts(metadata))


def raise_if_conflicts(workdir: epath.PathLike, conflicts: list[str]) -> None:
    """Raises UserError that lists the conflicts between a workdir and the current settings, if there are any."""
    if conflicts:
        raise UserError(
            f"{workdir} belongs to a different run: {'; '.join(conflicts)}. Use another --workdir or restore these "
            "settings"
        )
