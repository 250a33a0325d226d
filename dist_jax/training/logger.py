"""The log of a run: metrics.jsonl, TensorBoard events, progress bar, heartbeat, warnings, profiler trace."""

import collections
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import ml_collections
from clu import metric_writers, periodic_actions
from etils import epath
from tqdm import tqdm

from dist_jax.errors import UserError
from dist_jax.files import write_text

METRICS_FILE = "metrics.jsonl"
HEARTBEAT_FILE = "heartbeat.json"
MEASURED = ("clips_per_second", "input_wait", "device_memory_peak")  # metrics that differ between equal runs
_HEARTBEAT_SECONDS = 10.0  # minimum time between two writes of the heartbeat
_STEPS_BEHIND = 2  # delay of reading metrics, in steps: logging does not wait for the newest step


class TrainLogger:
    """Collects the metrics of every step on the device, and writes their averages once they are computed.

    Only process 0 writes. The logger also detects a loss that is not finite. With several hosts, the bad_* metrics of
    the training count the bad records of process 0 only.

    A line of metrics.jsonl covers the steps since the previous line. Lines are written at every multiple of
    log.every_steps, at the last step, and when a preemption stops the run. A resumed run replaces the line of the
    preemption, and continues the sums that were saved with the checkpoint: after a kill or a preemption, the lines are
    those of an undisturbed run except for the MEASURED metrics.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        first_step: int,
        num_steps: int,
        lr_schedule: Callable[[int], jax.Array],
        config: ml_collections.FrozenConfigDict,
        state: dict[str, Any] | None = None,
    ) -> None:
        """Continues the log of `workdir` after step `first_step` of `num_steps`.

        Args:
            workdir: folder of the run.
            first_step: completed steps.
            num_steps: steps of the whole run.
            lr_schedule: completed steps -> learning rate of the next step. It runs on the device after the queued
                steps, so the logger calls it only for the lines that it writes.
            config: of the run.
            state: `TrainLogger.state` after `first_step`; None: no sums to continue.
        """
        self._folder = epath.Path(workdir)
        self._config, self._num_steps, self._lr_schedule = config, num_steps, lr_schedule
        self._writes = jax.process_index() == 0
        self._pending: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()
        state = state or {"line_step": first_step, "sums": {}, "bad_records": []}
        self._line_step: int = state["line_step"]  # the sums cover the steps after this one
        self._sums: dict[str, float] = collections.defaultdict(float, state["sums"])
        self._bad_records: dict[int, str] = dict(state["bad_records"])  # record of this host -> kind, of all steps
        self._interval_start = (first_step, time.monotonic(), 0.0)  # step, seconds, seconds waited for input
        self._newest = (first_step, 0.0)  # step, seconds waited for input
        self._warned_slow_input = self._tracing = False
        self._last_heartbeat = 0.0
        self._first_interval_end = first_step + config.log.every_steps  # no warning about slow input before: start-up
        self._lines = lines_until(self._folder / METRICS_FILE, first_step, self._line_step)
        self._writer = metric_writers.create_default_writer(self._folder, just_logging=not self._writes)
        self._progress = periodic_actions.ReportProgress(num_train_steps=num_steps, writer=self._writer)
        show_bar = self._writes and sys.stderr.isatty()
        self._bar = tqdm(total=num_steps, initial=first_step, unit="step", disable=not show_bar, leave=False)

    def step(self, step: int, metrics: dict[str, jax.Array], waited: float, bad: dict[int, str]) -> None:
        """Records a dispatched step.

        Args:
            step: completed steps, this one included.
            metrics: of the training step, float32 scalars on the device.
            waited: seconds that the loop has waited for input since it started.
            bad: bad records that this host read for the steps up to this one -> kind. Those of earlier steps may be
                missing.

        Raises:
            UserError: a loss was not finite and config.optimizer.nonfinite is "stop".
        """
        for value in metrics.values():
            value.copy_to_host_async()
        self._pending.append((step, metrics))
        self._newest = (step, waited)
        self._bad_records |= bad
        self._read_metrics(_STEPS_BEHIND)
        self._bar.update()
        self._progress(step)
        self.write_heartbeat()
        if step % self._config.log.every_steps == 0:
            self.log()

    def write_heartbeat(self) -> None:
        """Updates the heartbeat file, at most every 10 seconds."""
        if self._writes and time.monotonic() - self._last_heartbeat > _HEARTBEAT_SECONDS:
            self._last_heartbeat = time.monotonic()
            heartbeat = json.dumps({"step": self._newest[0], "time": time.time()})
            write_text(str(self._folder / HEARTBEAT_FILE), heartbeat)

    def log(self) -> None:
        """Writes a line for the steps since the previous line, if there are any. Raises the errors of `step`."""
        self.flush()
        if self._sums["steps"]:
            self._write_interval(*self._newest)

    def state(self) -> dict[str, Any]:
        """The state after the newest step, to be saved with its checkpoint. Raises the errors of `step`.

        Returns:
            "line_step": step of the last line; "sums" of the metrics since then; "bad_records": [record, kind] pairs.
        """
        self.flush()
        bad_records = [[record, kind] for record, kind in self._bad_records.items()]
        return {"line_step": self._line_step, "sums": dict(self._sums), "bad_records": bad_records}

    def profile(self, step: int) -> None:
        """Starts or stops the profiler trace of config.profile_steps. Call before `step`."""
        steps = self._config.profile_steps
        if not steps:
            return
        if step == steps[0]:
            jax.profiler.start_trace(self._folder / "profile")
            self._tracing = True
        elif step == steps[1] + 1:
            self.flush()
            self._stop_trace()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Excludes the time inside the context from the clips per second."""
        self.flush()
        start = time.monotonic()
        yield
        step, interval_start, waited = self._interval_start
        self._interval_start = (step, interval_start + time.monotonic() - start, waited)

    def flush(self) -> None:
        """Waits for all steps so far and reads their metrics. Raises the errors of `step`."""
        self._read_metrics(0)

    def write(self, step: int, values: dict[str, float], prefix: str = "") -> None:
        """Writes scalars to all logs, with names like "eval_top1" for the prefix "eval_"."""
        values = {prefix + name: value for name, value in values.items()}
        self._writer.write_scalars(step, values)
        if not self._writes:
            return
        self._lines.append(json.dumps({"step": step, **values}))
        # The whole file every time: object stores cannot append, and the file is small.
        write_text(str(self._folder / METRICS_FILE), "\n".join(self._lines) + "\n")
        self._last_heartbeat = 0.0
        self.write_heartbeat()

    def evaluation(self, step: int) -> dict[str, float] | None:
        """The evaluation of `step` that metrics.jsonl contained at the start of the run; None if there is none."""
        for line in map(json.loads, self._lines):
            if line["step"] == step and "eval_videos" in line:
                values = {name.removeprefix("eval_"): v for name, v in line.items() if name.startswith("eval_")}
                return {name: value for name, value in values.items() if not name.startswith("bad_")}
        return None

    def warn(self, message: str) -> None:
        """Prints a warning above the progress bar."""
        self.info(f"warning: {message}")

    def info(self, message: str) -> None:
        """Prints a line above the progress bar."""
        if self._writes:
            tqdm.write(message, file=sys.stderr)

    def close(self) -> None:
        """Writes buffered events, and the trace if it ends with the run."""
        self._stop_trace()
        self._bar.close()
        self._writer.flush()
        self._writer.close()

    def _stop_trace(self) -> None:
        if not self._tracing:  # e.g. the run resumed between the two steps
            return
        self._tracing = False
        jax.profiler.stop_trace()
        self.info(f"a trace of steps {self._config.profile_steps} is in {self._folder / 'profile'} (use tensorboard)")

    def _read_metrics(self, num_pending: int) -> None:
        """Adds the metrics of all but the newest `num_pending` steps to the sums."""
        while len(self._pending) > num_pending:
            step, metrics = self._pending.popleft()
            values = {name: float(value) for name, value in metrics.items()}
            skipped = bool(values["skipped"])
            if skipped and self._config.optimizer.nonfinite == "stop":
                raise UserError(
                    f"at step {step} the loss ({values['loss']}) or its gradient (norm {values['grad_norm']}) is not "
                    "finite; the update was dropped and earlier checkpoints are kept. Lower optimizer.learning_rate, "
                    "set optimizer.grad_clip_norm, or skip such steps with optimizer.nonfinite=skip"
                )
            self._sums["steps"] += 1
            self._sums["skipped"] += values.pop("skipped")
            if not skipped:  # the metrics of a skipped step are not finite
                for name, value in values.items():
                    self._sums[name] += value

    def _write_interval(self, step: int, waited: float) -> None:
        first_step, start, waited_before = self._interval_start
        now = time.monotonic()
        seconds, num_steps = max(now - start, 1e-9), self._sums.pop("steps")
        skipped = self._sums.pop("skipped")
        kinds = collections.Counter(self._bad_records.values())
        values = {name: total / (num_steps - skipped) for name, total in self._sums.items()}  # empty if all skipped
        values |= {
            "learning_rate": float(self._lr_schedule(step - 1)),
            "clips_per_second": (step - first_step) * self._config.batch_size / seconds,
            "input_wait": (waited - waited_before) / seconds,
            "skipped": skipped,
            **{f"bad_{kind}": float(count) for kind, count in sorted(kinds.items())},
            **device_memory(),
        }
        self._sums.clear()
        self._line_step = step
        self._interval_start = (step, now, waited)
        self.write(step, values)
        self._show(step, values)
        self._warn_slow_input(step, values["input_wait"])

    def _warn_slow_input(self, step: int, input_wait: float) -> None:
        if input_wait > self._config.log.slow_input and step > self._first_interval_end and not self._warned_slow_input:
            self._warned_slow_input = True
            self.warn(
                f"{input_wait:.0%} of the time is spent waiting for input; use more cores or store smaller frames "
                "(python -m scripts.bench_input measures each stage)"
            )

    def _show(self, step: int, values: dict[str, float]) -> None:
        shown = {
            "loss": f"{values['loss']:.3f}" if "loss" in values else "not finite",
            "clips/s": f"{values['clips_per_second']:.1f}",
            "input wait": f"{values['input_wait']:.0%}",
        }
        if self._bar.disable:
            self.info(f"step {step}/{self._num_steps}: " + ", ".join(f"{name} {text}" for name, text in shown.items()))
        else:
            self._bar.set_postfix(shown)


def device_memory() -> dict[str, float]:
    """Peak memory over this host's devices so far, bytes; empty if a backend does not report it."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    return {"device_memory_peak": float(max(peaks))} if peaks and None not in peaks else {}


def lines_until(file: epath.Path, step: int, line_step: int) -> list[str]:
    """The lines of a metrics file that a run resumed at `step` keeps; it writes the others again.

    These are the evaluations up to `step`, and the lines of the training up to `line_step`.
    """
    if not file.exists():
        return []
    lines = []
    for line in file.read_text().splitlines():
        try:
            values = json.loads(line)
            if values["step"] <= (step if "eval_videos" in values else line_step):
                lines.append(line)
        except json.JSONDecodeError:
            logging.getLogger(__name__).info("%s: dropped a line that a kill truncated", file)
    return lines
