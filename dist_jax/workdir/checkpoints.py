"""The checkpoints of a workdir, checkpoints/STEP: DiST parameters, optimizer state and step, by Orbax.

No frozen parameter is saved: run.json names the backbone and the fingerprint of its weights instead.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint import checkpoint_managers

from dist_jax.errors import UserError
from dist_jax.workdir.train_state import TrainState


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
