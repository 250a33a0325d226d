"""What a workdir remembers of its run: run.json, which says what may go on there and what a trained model is."""

import dataclasses
import json
from typing import Any

from etils import epath

from dist_jax.errors import UserError, first_line

RUN_FILE = "run.json"

# Fields of the configuration that a run is known by. Later versions may add fields; these were always there.
_NEEDED = ("seed", "batch_size", "ema_decay", "init_from", "checkpoint", "backbone")


@dataclasses.dataclass(frozen=True)
class RunMetadata:
    """What a run is. A resumed run must agree in all but the settings that may change on the way."""

    config: dict[str, Any]  # the resolved configuration
    classes: list[str]  # names, in the order of their numbers
    backbone: dict[str, Any]  # "name" and "fingerprint" of the CLIP weights
    model: dict[str, Any]  # sizes of the DiST network
    records: int  # training records; with the batch size and the seed they say what a step number means

    def conflicts(self, other: "RunMetadata") -> list[str]:
        """What keeps `other` from going on where this run stopped, one phrase each, both sides named."""
        found = self.network_conflicts(other)
        if self.classes != other.classes:
            found.append(_class_conflict(self.classes, other.classes))
        for name in ("seed", "batch_size"):
            if self.config[name] != other.config[name]:
                found.append(f"{name} is {other.config[name]}, the workdir's {self.config[name]}")
        if (self.config["ema_decay"] > 0) != (other.config["ema_decay"] > 0):
            found.append(
                f"ema_decay is {other.config['ema_decay']}, the workdir's {self.config['ema_decay']}: "
                "it keeps an average or none"
            )
        if self.records != other.records:
            found.append(f"there are {other.records} training records, in the workdir's run {self.records}")
        return found

    def network_conflicts(self, other: "RunMetadata") -> list[str]:
        """What keeps this run's parameters from being those of `other`'s network, as `conflicts` says it."""
        found = []
        if self.backbone["fingerprint"] != other.backbone["fingerprint"]:
            mine, theirs = (f"{r.backbone['name']} ({r.backbone['fingerprint'][:12]})" for r in (self, other))
            found.append(f"the backbone is {theirs}, the workdir's {mine}")
        for name in self.model:
            if self.model[name] != other.model.get(name):
                found.append(f"model {name} is {other.model.get(name)}, the workdir's {self.model[name]}")
        return found


def _class_conflict(mine: list[str], theirs: list[str]) -> str:
    differ = [i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b]
    if not differ:
        return f"there are {len(theirs)} classes, in the workdir's run {len(mine)}"
    first = differ[0]
    return f"class {first} is {theirs[first]!r}, the workdir's {mine[first]!r}"


def make_workdir(workdir: epath.PathLike) -> None:
    """Makes the folder of a run; UserError if it is a file or cannot be made."""
    try:
        epath.Path(workdir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot be made a folder ({first_line(error)}); give another") from error


def read_run(workdir: epath.PathLike) -> RunMetadata | None:
    """The run of a workdir; None if it has none yet. UserError if run.json cannot be read or is not whole."""
    file = epath.Path(workdir) / RUN_FILE
    if not file.exists():
        return None
    try:
        run = RunMetadata(**json.loads(file.read_text()))
        needed = ((run.config, _NEEDED), (run.backbone, ("name", "fingerprint")), (run.model, ("num_frames", "layers")))
        missing = [name for found, names in needed for name in names if name not in found]
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is not a run of dist_jax ({error}); give another --workdir") from error
    if missing:
        raise UserError(f"{file} is not a run of dist_jax ({', '.join(missing)} missing); give another --workdir")
    return run


def write_run(workdir: epath.PathLike, run: RunMetadata) -> None:
    """Writes run.json whole or not at all."""
    file = epath.Path(workdir) / RUN_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".tmp")
    unfinished.write_text(json.dumps(dataclasses.asdict(run), indent=1))
    unfinished.replace(file)


def check_resumes(workdir: epath.PathLike, run: RunMetadata) -> None:
    """Raises UserError if the workdir holds another run than `run`."""
    before = read_run(workdir)
    if before is not None:
        refuse(workdir, before.conflicts(run))


def refuse(workdir: epath.PathLike, conflicts: list[str]) -> None:
    """Raises UserError if there are conflicts between a workdir's run and what is to be done with it."""
    if conflicts:
        raise UserError(
            f"{workdir} holds another run: {'; '.join(conflicts)}. Give another --workdir or these settings"
        )
