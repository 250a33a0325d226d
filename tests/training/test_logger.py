"""The log of a run: metrics, heartbeat, profiler trace."""

import json

import jax.numpy as jnp
import ml_collections
import pytest

from dist_jax import config as settings
from dist_jax.errors import UserError
from dist_jax.training import logger


def step_metrics(loss: float = 1.0, skipped: float = 0.0) -> dict:
    values = {"loss": loss, "grad_norm": 2.0, "accuracy": 0.5, "skipped": skipped}
    return {name: jnp.asarray(value) for name, value in values.items()}


def zero_learning_rate(step: int) -> float:
    return 0.0


@pytest.fixture
def config() -> ml_collections.ConfigDict:
    config = settings.defaults()
    config.log.every_steps = 3
    return config


def without_measured(lines: list[dict]) -> list[dict]:
    return [{name: value for name, value in line.items() if name not in logger.MEASURED} for line in lines]


def read_lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / logger.METRICS_FILE).read_text().splitlines()]


def test_the_learning_rate_is_computed_only_for_logged_steps(tmp_path, config):
    computed_steps = []
    learning_rate = lambda step: computed_steps.append(step) or step / 10
    train_logger = logger.TrainLogger(tmp_path, 0, 6, learning_rate, config)
    for step in range(1, 7):
        train_logger.step(step, step_metrics(loss=step), 0.0, {})
    train_logger.close()
    assert computed_steps == [2, 5]
    lines = read_lines(tmp_path)
    assert [line["step"] for line in lines] == [3, 6]
    assert [line["loss"] for line in lines] == [2.0, 5.0]  # means of three steps
    assert [line["learning_rate"] for line in lines] == [0.2, 0.5]


def test_the_first_step_writes_the_heartbeat(tmp_path, config):
    train_logger = logger.TrainLogger(tmp_path, 4, 6, zero_learning_rate, config)
    train_logger.step(5, step_metrics(), 0.0, {})
    train_logger.close()
    assert json.loads((tmp_path / logger.HEARTBEAT_FILE).read_text())["step"] == 5


def test_a_pause_is_excluded_from_the_clips_per_second(tmp_path, config, monkeypatch):
    now = 0.0
    monkeypatch.setattr(logger.time, "monotonic", lambda: now)
    train_logger = logger.TrainLogger(tmp_path, 0, 6, zero_learning_rate, config)
    with train_logger.pause():
        now += 900.0
    for step in range(1, 4):
        now += 1.0
        train_logger.step(step, step_metrics(), 0.0, {})
    train_logger.close()
    (line,) = read_lines(tmp_path)
    assert line["clips_per_second"] == config.batch_size


def test_a_nonfinite_loss_stops_the_run_or_is_counted(tmp_path, config):
    train_logger = logger.TrainLogger(tmp_path, 0, 6, zero_learning_rate, config)
    train_logger.step(1, step_metrics(loss=float("nan"), skipped=1.0), 0.0, {})
    with pytest.raises(UserError, match="at step 1 the loss"):
        train_logger.flush()
    train_logger.close()
    config.optimizer.nonfinite = "skip"
    train_logger = logger.TrainLogger(tmp_path / "skip", 0, 6, zero_learning_rate, config)
    for step, loss in enumerate((1.0, float("nan"), 3.0), 1):
        train_logger.step(step, step_metrics(loss, skipped=float(loss != loss)), 0.0, {})
    train_logger.close()
    (line,) = read_lines(tmp_path / "skip")
    assert (line["loss"], line["skipped"]) == (2.0, 1.0)


def test_averages_exclude_skipped_steps(tmp_path, config):
    config.optimizer.nonfinite, config.log.every_steps = "skip", 4
    train_logger = logger.TrainLogger(tmp_path, 0, 8, zero_learning_rate, config)
    for step in range(1, 9):  # steps 2 to 8 are skipped; the losses of steps 5 to 8 are not finite
        train_logger.step(step, step_metrics(loss=2.0 if step < 5 else float("nan"), skipped=float(step > 1)), 0.0, {})
    train_logger.close()
    one_used, none_used = read_lines(tmp_path)
    assert [one_used[name] for name in ("loss", "grad_norm", "accuracy", "skipped")] == [2.0, 2.0, 0.5, 3.0]
    assert none_used["skipped"] == 4.0
    assert not {"loss", "grad_norm", "accuracy"} & set(none_used)


def test_an_incomplete_interval_is_logged_once(tmp_path, config):
    train_logger = logger.TrainLogger(tmp_path, 0, 5, zero_learning_rate, config)
    train_logger.log()
    for step in range(1, 6):
        train_logger.step(step, step_metrics(loss=step), 0.0, {})
    train_logger.log()
    train_logger.log()
    train_logger.close()
    assert [(line["step"], line["loss"]) for line in read_lines(tmp_path)] == [(3, 2.0), (5, 4.5)]


def test_the_heartbeat_continues_between_steps(tmp_path, config, monkeypatch):
    train_logger = logger.TrainLogger(tmp_path, 4, 6, zero_learning_rate, config)
    is_written = []
    for now in (100.0, 105.0, 111.0):
        monkeypatch.setattr(logger.time, "monotonic", lambda now=now: now)
        (tmp_path / logger.HEARTBEAT_FILE).unlink(missing_ok=True)
        train_logger.write_heartbeat()
        is_written.append((tmp_path / logger.HEARTBEAT_FILE).exists())
    train_logger.close()
    assert is_written == [True, False, True]


def test_a_logged_evaluation_is_available_after_a_restart(tmp_path, config):
    train_logger = logger.TrainLogger(tmp_path, 0, 6, zero_learning_rate, config)
    train_logger.write(4, {"videos": 3, "top1": 0.5, "bad_image": 1.0}, "eval_")
    train_logger.write(5, {"loss": 1.0})
    train_logger.close()
    train_logger = logger.TrainLogger(tmp_path, 5, 6, zero_learning_rate, config)
    assert train_logger.evaluation(4) == {"videos": 3, "top1": 0.5}
    assert train_logger.evaluation(5) is None
    train_logger.close()


@pytest.mark.parametrize(
    ("first_step", "num_steps", "is_traced"),
    [(0, 6, True), (0, 3, True), (2, 6, False)],
    ids=["inside the run", "at the end of the run", "resumed after the first step of the trace"],
)
def test_a_trace_covers_all_profile_steps_or_is_not_started(tmp_path, config, first_step, num_steps, is_traced):
    config.profile_steps = (2, 3)
    train_logger = logger.TrainLogger(tmp_path, first_step, num_steps, zero_learning_rate, config)
    for step in range(first_step + 1, num_steps + 1):
        train_logger.profile(step)
        train_logger.step(step, step_metrics(), 0.0, {})
    train_logger.close()
    assert bool(list(tmp_path.glob("profile/**/*.xplane.pb"))) == is_traced


def test_a_resumed_run_continues_the_sums_of_its_checkpoint(tmp_path, config):
    losses = [0.1, 0.7, 0.4, 0.3, 0.9, 0.2]

    def run(folder, first_step, last_step, state=None):
        train_logger = logger.TrainLogger(folder, first_step, 6, zero_learning_rate, config, state)
        for step in range(first_step + 1, last_step + 1):
            bad = {step: "image"} if step in (1, 5) else {}
            train_logger.step(step, step_metrics(losses[step - 1]), 0.0, bad)
        state = json.loads(json.dumps(train_logger.state()))
        if last_step == 5:
            train_logger.log()  # as a preemption does after the state is saved
        train_logger.close()
        return state

    run(tmp_path / "undisturbed", 0, 6)
    state = None
    for first_step, last_step in ((0, 2), (2, 5), (5, 6)):
        state = run(tmp_path / "resumed", first_step, last_step, state)
    first, second = without_measured(read_lines(tmp_path / "resumed"))
    assert (first["step"], first["bad_image"], second["step"], second["bad_image"]) == (3, 1, 6, 2)
    assert [first, second] == without_measured(read_lines(tmp_path / "undisturbed"))


def test_a_resumed_run_keeps_the_evaluation_of_its_first_step_and_replaces_the_line_of_a_preemption(tmp_path, config):
    train_logger = logger.TrainLogger(tmp_path, 0, 6, zero_learning_rate, config)
    train_logger.step(1, step_metrics(), 0.0, {})
    train_logger.write(1, {"videos": 3, "top1": 0.5}, "eval_")
    state = train_logger.state()
    train_logger.log()
    train_logger.close()
    assert [line["step"] for line in read_lines(tmp_path)] == [1, 1]
    train_logger = logger.TrainLogger(tmp_path, 1, 6, zero_learning_rate, config, state)
    for step in (2, 3):
        train_logger.step(step, step_metrics(), 0.0, {})
    train_logger.close()
    assert [(line["step"], "eval_top1" in line) for line in read_lines(tmp_path)] == [(1, True), (3, False)]


def test_a_resumed_run_replaces_the_lines_of_later_steps(tmp_path, config):
    for first_step in (0, 3):
        train_logger = logger.TrainLogger(tmp_path, first_step, 6, zero_learning_rate, config)
        for step in range(first_step + 1, 7):
            train_logger.step(step, step_metrics(loss=first_step), 0.0, {})
        train_logger.close()
    assert [(line["step"], line["loss"]) for line in read_lines(tmp_path)] == [(3, 0.0), (6, 3.0)]
