"""Orbax checkpoints in WORKDIR/checkpoints/STEP: DiST parameters, optimizer state, step and the state of the log.

Frozen parameters are not saved: run.json records the name and the fingerprint of the backbone's weights.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from dist_jax.errors import UserError, first_line
from dist_jax.files import write_text
from dist_jax.workdir.train_state import TrainState

_TENSORSTORE_ERROR = re.compile(r"os_error_code='(\d+)'")  # in the ValueErrors of TensorStore: an errno
_LOG = "log"  # item of a checkpoint: the state of the log
_METRICS = "metrics"  # Orbax's name of the item of the metrics, and of the JSON file in it


class Checkpoints:
    """Saves checkpoints in the background, restores them, and deletes old ones."""

    def __init__(self, workdir: epath.PathLike, max_to_keep: int, best_metric: str) -> None:
        """Opens WORKDIR/checkpoints.

        Args:
            workdir: folder of the run.
            max_to_keep: number of newest checkpoints to keep.
            best_metric: the checkpoint with the highest value of this metric is also kept; "" for none.
        """
        policies = [checkpoint_managers.LatestN(max_to_keep)]
        if best_metric:
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics[best_metric], n=1, keep_checkpoints_without_metrics=False
                )
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            best_fn=lambda metrics: metrics[best_metric or "top1"],  # Orbax saves metrics only with a best_fn
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(_folder(workdir), options=options)

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint; None if there is none."""
        return self._manager.latest_step()

    def metrics(self, step: int) -> dict[str, float] | None:
        """The metrics saved with `step`; None if this checkpoint does not exist or was not evaluated."""
        return self._manager.metrics(step)

    def save(
        self,
        step: int,
        state: TrainState,
        metrics: dict[str, float] | None = None,
        log_state: dict[str, Any] | None = None,
    ) -> None:
        """Starts saving and returns once the state is copied to the host. All hosts must call this.

        Args:
            step: completed steps.
            state: of the training.
            metrics: the evaluation of `step`; None if there is none.
            log_state: of the log (see `TrainLogger.state`), values that JSON can represent.

        Raises:
            UserError: this checkpoint or the previous one cannot be written, e.g. because the disk is full.
        """
        if step in self._manager.all_steps():
            return
        args: dict[str, Any] = {name: ocp.args.StandardSave(item) for name, item in _items(state).items()}
        if log_state is not None:
            args[_LOG] = ocp.args.JsonSave(log_state)
        with self._save_errors():
            self._manager.save(step, args=ocp.args.Composite(**args), metrics=metrics, force=True)

    def add_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Adds the evaluation of a saved step that has none: the best checkpoint may be this one. All hosts call this.

        Args:
            step: completed steps; its save is complete when this returns.
            metrics: the evaluation. Only that of process 0 counts.
        """
        self.wait()
        if jax.process_index() == 0 and self.metrics(step) is None:
            folder = self._manager.directory / str(step) / _METRICS
            folder.mkdir(exist_ok=True)
            write_text(str(folder / _METRICS), json.dumps(metrics))
        multihost_utils.sync_global_devices(f"metrics of step {step}")
        self._manager.reload()

    def log_state(self, step: int) -> dict[str, Any] | None:
        """The state of the log saved with `step`; None if the checkpoint has none (dist_jax 0.2 saved none)."""
        if not (self._manager.directory / str(step) / _LOG).exists():
            return None
        return self._manager.restore(step, args=ocp.args.Composite(**{_LOG: ocp.args.JsonRestore()}))[_LOG]

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state saved at `step`, with the shapes, dtypes and shardings of the leaves of `like`."""
        args = {name: ocp.args.StandardRestore(item) for name, item in _items(like).items()}
        items = self._manager.restore(step, args=ocp.args.Composite(**args))
        return TrainState(items["step"]["value"], items["params"], items["opt_state"], items.get("ema"))

    def wait(self) -> None:
        """Waits until all saves are complete. Raises UserError if a checkpoint cannot be written."""
        with self._save_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for unfinished saves and closes. Raises UserError if a checkpoint cannot be written."""
        with self._save_errors():
            self._manager.close()

    @contextmanager
    def _save_errors(self) -> Iterator[None]:
        """Converts errors of the file system to UserError."""
        try:
            yield
        except (OSError, ValueError) as error:
            found = _TENSORSTORE_ERROR.search(str(error))
            if not found and not isinstance(error, OSError):
                raise
            reason = os.strerror(int(found[1])) if found else first_line(error)
            raise UserError(
                f"{self._manager.directory}: a checkpoint cannot be written ({reason}); earlier checkpoints are kept: "
                "free space or restore access, and run the same command again to resume"
            ) from error


def load_params(workdir: epath.PathLike, best_metric: str = "") -> tuple[int, dict]:
    """Loads the DiST parameters of a training run on this host: their moving average if the run has one.

    Args:
        workdir: folder of the run.
        best_metric: loads the checkpoint with the highest value of this metric, e.g. "top1", the newest of equal ones;
            "": the newest.

    Returns:
        The step, and the parameters as NumPy arrays.

    Raises:
        UserError: there is no complete checkpoint.
    """
    if not _folder(workdir).is_dir():
        raise UserError(
            f"{workdir} has no checkpoints ({_folder(workdir)} is missing); use the --workdir of a training run"
        )
    handlers = {item: ocp.StandardCheckpointHandler() for item in ("params", "ema")}
    with ExitStack() as stack:
        stack.enter_context(_no_warnings())
        options = ocp.CheckpointManagerOptions(read_only=True)
        manager = ocp.CheckpointManager(_folder(workdir), options=options, item_handlers=handlers)
        stack.enter_context(manager)
        step = _best_step(manager, best_metric) if best_metric else manager.latest_step()
        if step is None:
            raise UserError(f"{workdir} has no complete checkpoint yet; train longer")
        item = "ema" if (manager.directory / str(step) / "ema").exists() else "params"
        # Restore onto one local device: the devices that saved the checkpoint may not exist here.
        local = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shapes = manager.item_metadata(step)[item]
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=local), shapes)
        restored = manager.restore(step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(target)}))
    return step, jax.device_get(restored[item])


def _best_step(manager: ocp.CheckpointManager, metric: str) -> int | None:
    metrics = {step: manager.metrics(step) for step in manager.all_steps()}
    scores = {step: values[metric] for step, values in metrics.items() if values and metric in values}
    return max(scores, key=lambda step: (scores[step], step)) if scores else manager.latest_step()


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Hides Orbax's warnings about read-only and partial restoring, which are intended here."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _folder(workdir: epath.PathLike) -> epath.Path:
    return epath.Path(workdir).resolve() / "checkpoints"


def _items(state: TrainState) -> dict[str, Any]:
    """Checkpoint items, each a tree: Orbax's standard handler does not accept a single array."""
    items = {"params": state.params, "opt_state": state.opt_state, "step": {"value": state.step}}
    return items if state.ema is None else items | {"ema": state.ema}
