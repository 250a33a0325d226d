"""What a workdir holds: run.json (what the run is) and checkpoints/STEP (DiST parameters, optimizer state), by Orbax.

No frozen parameter is saved: run.json names the backbone and the fingerprint of its weights instead.
"""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint import checkpoint_managers

from dist_jax.errors import UserError
from dist_jax.steps import TrainState

RUN_FILE = "run.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run is. A resumed run must agree in all but the settings that may change on the way."""

    config: dict[str, Any]  # the resolved configuration
    classes: list[str]  # names, in the order of their numbers
    backbone: dict[str, Any]  # "name" and "fingerprint" of the CLIP weights
    model: dict[str, Any]  # sizes of the DiST network
    records: int  # training records; with the batch size and the seed they say what a step number means

    def conflicts(self, other: "Run") -> list[str]:
        """What keeps `other` from going on where this run stopped, one phrase each, both sides named."""
        found = []
        if self.backbone["fingerprint"] != other.backbone["fingerprint"]:
            mine, theirs = (f"{r.backbone['name']} ({r.backbone['fingerprint'][:12]})" for r in (self, other))
            found.append(f"the backbone is {theirs}, the workdir's {mine}")
        if self.classes != other.classes:
            found.append(_class_conflict(self.classes, other.classes))
        for name in self.model:
            if self.model[name] != other.model[name]:
                found.append(f"model {name} is {other.model[name]}, the workdir's {self.model[name]}")
        for name in ("seed", "batch_size"):
            if self.config[name] != other.config[name]:
                found.append(f"{name} is {other.config[name]}, the workdir's {self.config[name]}")
        if (self.config["ema"] > 0) != (other.config["ema"] > 0):
            found.append(
                f"ema is {other.config['ema']}, the workdir's {self.config['ema']}: it keeps an average or none"
            )
        if self.records != other.records:
            found.append(f"there are {other.records} training records, in the workdir's run {self.records}")
        return found


def _class_conflict(mine: list[str], theirs: list[str]) -> str:
    differ = [i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b]
    if not differ:
        return f"there are {len(theirs)} classes, in the workdir's run {len(mine)}"
    first = differ[0]
    return f"class {first} is {theirs[first]!r}, the workdir's {mine[first]!r}"


def read_run(workdir: epath.PathLike) -> Run | None:
    """The run of a workdir; None if it has none yet. UserError if run.json cannot be read."""
    file = epath.Path(workdir) / RUN_FILE
    if not file.exists():
        return None
    try:
        return Run(**json.loads(file.read_text()))
    except (json.JSONDecodeError, TypeError) as error:
        raise UserError(f"{file} is not a run of dist_jax ({error}); give another --workdir") from error


def write_run(workdir: epath.PathLike, run: Run) -> None:
    """Writes run.json whole or not at all."""
    file = epath.Path(workdir) / RUN_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".tmp")
    unfinished.write_text(json.dumps(dataclasses.asdict(run), indent=1))
    unfinished.replace(file)


def check_resumes(workdir: epath.PathLike, run: Run) -> None:
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


class Checkpoints:
    """The checkpoints of a workdir: saved in the background, the newest `keep` and the best one kept."""

    def __init__(self, workdir: epath.PathLike, keep: int, best: str) -> None:
        """Opens workdir/checkpoints; `best` is the metric whose highest value is kept, "" for none."""
        policies = [checkpoint_managers.LatestN(keep)]
        if best:
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics[best], n=1, keep_checkpoints_without_metrics=False
                )
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            best_fn=lambda metrics: metrics[best or "top1"],  # without it no metrics are written beside a checkpoint
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(_folder(workdir), options=options)

    @property
    def latest(self) -> int | None:
        """The newest whole checkpoint's step."""
        return self._manager.latest_step()

    def metrics(self, step: int) -> dict[str, float] | None:
        """What `step` was saved with; None if there is no such checkpoint, or it was not evaluated."""
        return self._manager.metrics(step)

    def save(self, step: int, state: TrainState, metrics: dict[str, float] | None = None) -> None:
        """Starts saving; returns when the state is copied off the device. All hosts call this."""
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(**{name: ocp.args.StandardSave(item) for name, item in _items(state).items()})
        self._manager.save(step, args=args, metrics=metrics, force=True)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state saved at `step`, placed as `like` says (its leaves have shape, dtype and sharding)."""
        wanted = {name: ocp.args.StandardRestore(item) for name, item in _items(like).items()}
        found = self._manager.restore(step, args=ocp.args.Composite(**wanted))
        return TrainState(found["step"]["value"], found["params"], found["opt_state"], found.get("ema"))

    def wait(self) -> None:
        """Returns when nothing is being saved any more."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes what is being saved."""
        self._manager.close()


def load_params(workdir: epath.PathLike, best: str = "") -> tuple[int, dict]:
    """The parameters of a workdir on this host: the averaged ones where the run kept an average.

    Args:
        workdir: of a training run.
        best: metric whose best checkpoint is read, e.g. "top1"; "": the newest.

    Returns:
        The step and the DiST parameters.

    Raises:
        UserError: if there is no checkpoint.
    """
    if not _folder(workdir).is_dir():
        raise UserError(f"{workdir} holds no checkpoint of a training run ({_folder(workdir)} is missing)")
    handlers = {item: ocp.StandardCheckpointHandler() for item in ("params", "ema")}
    with ExitStack() as stack:
        stack.enter_context(_no_warnings())
        options = ocp.CheckpointManagerOptions(read_only=True)
        manager = ocp.CheckpointManager(_folder(workdir), options=options, item_handlers=handlers)
        stack.enter_context(manager)
        step = _best_step(manager, best) if best else manager.latest_step()
        if step is None:
            raise UserError(f"{workdir} holds no whole checkpoint yet; train longer")
        item = "ema" if (manager.directory / str(step) / "ema").exists() else "params"
        # Onto one device of this host: the devices of the run that saved them need not be here.
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shapes = manager.item_metadata(step)[item]
        wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
        restored = manager.restore(step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(wanted)}))
    return step, jax.device_get(restored[item])


def _best_step(manager: ocp.CheckpointManager, metric: str) -> int | None:
    scores = {step: manager.metrics(step) for step in manager.all_steps()}
    scores = {step: found[metric] for step, found in scores.items() if found and metric in found}
    return max(scores, key=scores.__getitem__) if scores else manager.latest_step()


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Orbax warns of what is meant here: reading only, and only a part."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _folder(workdir: epath.PathLike) -> epath.Path:
    return epath.Path(workdir).resolve() / "checkpoints"


def _items(state: TrainState) -> dict[str, Any]:
    """The parts of a checkpoint, each a tree: Orbax's standard handler takes no single array."""
    items = {"params": state.params, "opt_state": state.opt_state, "step": {"value": state.step}}
    return items if state.ema is None else items | {"ema": state.ema}
