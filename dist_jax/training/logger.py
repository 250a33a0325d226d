"""Watching a run: metrics.jsonl, TensorBoard events, the progress bar, the heartbeat, the warnings."""

import collections
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import ml_collections
from clu import metric_writers, periodic_actions
from etils import epath
from tqdm import tqdm

from dist_jax.errors import UserError
from dist_jax.files import write_text

METRICS_FILE = "metrics.jsonl"
HEARTBEAT_FILE = "heartbeat.json"
_HEARTBEAT_SECONDS = 10.0  # at least, from one writing of the heartbeat to the next
_STEPS_BEHIND = 2  # steps that the device may be ahead of what was read of it: logging never waits for the newest step


class TrainLogger:
    """Takes every step's metrics, still on the device, and tells about them when they are there.

    Only process 0 writes. `TrainLogger` is where a loss that is not finite is noticed.

    A line of metrics.jsonl tells of the steps since the line before it, or since the run was started or resumed: at
    every multiple of log.every_steps, at the last step, and where a notice to stop ended a run. So a run that was
    stopped has a line more, there, than one that was not, and one that was killed and resumed from the checkpoint of
    step n says nothing of the steps between its last line before n and n.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        start: int,
        total: int,
        rate: Callable[[int], jax.Array],
        config: ml_collections.FrozenConfigDict,
    ) -> None:
        """Goes on behind step `start` of `total`.

        `rate` is the learning rate of the step that follows so many. It is asked for only where it is logged: computed
        on the device, it waits there for the step.
        """
        self._folder = epath.Path(workdir)
        self._config, self._total, self._rate = config, total, rate
        self._writes = jax.process_index() == 0
        self._pending: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()
        self._sums: dict[str, float] = collections.defaultdict(float)
        self._since = (start, time.monotonic(), 0.0)  # step, seconds, seconds waited: where the interval began
        self._newest = (start, 0.0, {})  # step, seconds waited, bad records
        self._warned = self._tracing = False
        self._beaten = 0.0  # when the heartbeat was written last
        self._first = start + config.log.every_steps  # the first interval waits for the pipeline to start: no warning
        self._lines = lines_until(self._folder / METRICS_FILE, start)
        self._writer = metric_writers.create_default_writer(self._folder, just_logging=not self._writes)
        self._progress = periodic_actions.ReportProgress(num_train_steps=total, writer=self._writer)
        self._bar = tqdm(
            total=total, initial=start, unit="step", disable=not (self._writes and sys.stderr.isatty()), leave=False
        )

    def step(self, step: int, metrics: dict[str, jax.Array], waited: float, bad: dict[str, int]) -> None:
        """After the dispatch of a step.

        Args:
            step: steps made, this one included.
            metrics: of the training step, float32 scalars on the device.
            waited: seconds that the loop has waited for input since it began.
            bad: number of different bad records so far, by kind.

        Raises:
            UserError: if a loss was not finite and the run is to stop at that.
        """
        for value in metrics.values():
            value.copy_to_host_async()
        self._pending.append((step, metrics))
        self._newest = (step, waited, bad)
        self._read(_STEPS_BEHIND)
        self._bar.update()
        self._progress(step)
        self.beat()
        if step % self._config.log.every_steps == 0:
            self.log()

    def beat(self) -> None:
        """Says in the heartbeat file that the run is alive, if it has not done so lately."""
        if self._writes and time.monotonic() - self._beaten > _HEARTBEAT_SECONDS:
            self._beaten = time.monotonic()
            beat = json.dumps({"step": self._newest[0], "time": time.time()})
            write_text(str(self._folder / HEARTBEAT_FILE), beat)

    def log(self) -> None:
        """Writes a line about the steps that none tells of yet; nothing if there are none. Raises as `step` does."""
        self.flush()
        if self._sums["steps"]:
            self._log(*self._newest)

    def profile(self, step: int) -> None:
        """Before a step: starts and stops the profiler's trace where config.profile_steps says so."""
        steps = self._config.profile_steps
        if not steps:
            return
        if step == steps[0]:
            jax.profiler.start_trace(self._folder / "profile")
            self._tracing = True
        elif step == steps[1] + 1:
            self.flush()
            self._end_trace()

    def _end_trace(self) -> None:
        if not self._tracing:  # a run that was resumed inside of these steps has begun none
            return
        self._tracing = False
        jax.profiler.stop_trace()
        self.say(f"a trace of the steps {self._config.profile_steps} is in {self._folder / 'profile'} (tensorboard)")

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves what happens inside, an evaluation say, out of the clips per second."""
        self.flush()
        began = time.monotonic()
        yield
        step, since, waited = self._since
        self._since = (step, since + time.monotonic() - began, waited)

    def flush(self) -> None:
        """Waits for all steps so far and takes in their metrics; raises as `step` does."""
        self._read(0)

    def _read(self, behind: int) -> None:
        while len(self._pending) > behind:
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
            if not skipped:  # the numbers of a step that was dropped say nothing about the network
                for name, value in values.items():
                    self._sums[name] += value

    def _log(self, step: int, waited: float, bad: dict[str, int]) -> None:
        before, began, waited_before = self._since
        now = time.monotonic()
        seconds, steps = max(now - began, 1e-9), self._sums.pop("steps")
        skipped = self._sums.pop("skipped")
        values = {name: total / (steps - skipped) for name, total in self._sums.items()}  # empty if all were skipped
        values |= {
            "learning_rate": float(self._rate(step - 1)),
            "clips_per_second": (step - before) * self._config.batch_size / seconds,
            "input_wait": (waited - waited_before) / seconds,
            "skipped": skipped,
            **{f"bad_{kind}": float(count) for kind, count in bad.items()},
            **device_memory(),
        }
        self._sums.clear()
        self._since = (step, now, waited)
        self.write(step, values)
        self._show(step, values)
        if values["input_wait"] > self._config.log.slow_input and step > self._first and not self._warned:
            self._warned = True
            self.warn(
                f"{values['input_wait']:.0%} of the time goes into waiting for input; raise data.num_threads or "
                "store smaller frames (python -m scripts.bench_input shows what takes the time)"
            )

    def _show(self, step: int, values: dict[str, float]) -> None:
        shown = {
            "loss": f"{values['loss']:.3f}" if "loss" in values else "no finite one",
            "clips/s": f"{values['clips_per_second']:.1f}",
            "input wait": f"{values['input_wait']:.0%}",
        }
        if self._bar.disable:
            self.say(f"step {step}/{self._total}: " + ", ".join(f"{name} {value}" for name, value in shown.items()))
        else:
            self._bar.set_postfix(shown)

    def write(self, step: int, values: dict[str, float], prefix: str = "") -> None:
        """Writes scalars to all logs; `prefix` says what they are of, e.g. "eval_"."""
        values = {prefix + name: value for name, value in values.items()}
        self._writer.write_scalars(step, values)
        if not self._writes:
            return
        self._lines.append(json.dumps({"step": step, **values}))
        # Written whole every time: object stores cannot append, and the file stays small.
        write_text(str(self._folder / METRICS_FILE), "\n".join(self._lines) + "\n")
        self._beaten = 0.0
        self.beat()

    def evaluation(self, step: int) -> dict[str, float] | None:
        """The evaluation of `step` that metrics.jsonl held when the run was started; None if it held none."""
        for line in map(json.loads, self._lines):
            if line["step"] == step and "eval_top1" in line:
                of_all = {name.removeprefix("eval_"): value for name, value in line.items() if name.startswith("eval_")}
                return {name: value for name, value in of_all.items() if not name.startswith("bad_")}
        return None

    def warn(self, message: str) -> None:
        """A line that the progress bar does not overwrite."""
        self.say(f"warning: {message}")

    def say(self, message: str) -> None:
        """As `warn`, for what is no reason to worry."""
        if self._writes:
            tqdm.write(message, file=sys.stderr)

    def close(self) -> None:
        """Writes what is left, a trace whose last step was the run's too."""
        self._end_trace()
        self._bar.close()
        self._writer.flush()
        self._writer.close()


def device_memory() -> dict[str, float]:
    """Largest memory in use so far over this host's devices, bytes; empty where a backend does not say."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    return {"device_memory_peak": float(max(peaks))} if peaks and None not in peaks else {}


def lines_until(file: epath.Path, step: int) -> list[str]:
    """The lines of a metrics file up to `step`: a resumed run writes the later ones again."""
    if not file.exists():
        return []
    kept = []
    for line in file.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except json.JSONDecodeError:
            logging.getLogger(__name__).info("%s: a line that a kill cut short is dropped", file)
    return kept
