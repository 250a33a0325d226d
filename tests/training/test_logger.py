"""What a run tells about itself: when it asks the device, what it writes, how it profiles."""

import json

import jax.numpy as jnp
import ml_collections
import pytest

from dist_jax import config as settings
from dist_jax.errors import UserError
from dist_jax.training import logger


def metrics(loss: float = 1.0, skipped: float = 0.0) -> dict:
    values = {"loss": loss, "grad_norm": 2.0, "accuracy": 0.5, "skipped": skipped}
    return {name: jnp.asarray(value) for name, value in values.items()}


def rate(done: int) -> float:
    return 0.0


@pytest.fixture
def config() -> ml_collections.ConfigDict:
    config = settings.defaults()
    config.log.every_steps = 3
    return config


def logged(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / logger.METRICS_FILE).read_text().splitlines()]


def test_the_learning_rate_is_asked_for_only_where_it_is_logged(tmp_path, config):
    asked = []
    train_logger = logger.TrainLogger(tmp_path, 0, 6, lambda done: asked.append(done) or done / 10, config)
    for step in range(1, 7):
        train_logger.step(step, metrics(loss=step), 0.0, {})
    train_logger.close()
    assert asked == [2, 5]
    found = logged(tmp_path)
    assert [line["step"] for line in found] == [3, 6]
    assert [line["loss"] for line in found] == [2.0, 5.0]  # means of three steps
    assert [line["learning_rate"] for line in found] == [0.2, 0.5]


def test_the_heartbeat_is_there_after_the_first_step(tmp_path, config):
    train_logger = logger.TrainLogger(tmp_path, 4, 6, rate, config)
    train_logger.step(5, metrics(), 0.0, {})
    train_logger.close()
    assert json.loads((tmp_path / logger.HEARTBEAT_FILE).read_text())["step"] == 5


def test_a_pause_does_not_count_as_training(tmp_path, config, monkeypatch):
    train_logger = logger.TrainLogger(tmp_path, 0, 6, rate, config)
    (step, began, waited), clock = train_logger._interval_start, iter([100.0, 1000.0])
    with monkeypatch.context() as at:
        at.setattr(logger.time, "monotonic", lambda: next(clock))
        with train_logger.pause():
            pass
    assert train_logger._interval_start == (step, began + 900.0, waited)
    train_logger.close()


def test_a_loss_that_is_not_finite_stops_or_is_counted(tmp_path, config):
    train_logger = logger.TrainLogger(tmp_path, 0, 6, rate, config)
    train_logger.step(1, metrics(loss=float("nan"), skipped=1.0), 0.0, {})
    with pytest.raises(UserError, match="at step 1 the loss"):
        train_logger.flush()
    train_logger.close()
    config.optimizer.nonfinite = "skip"
    train_logger = logger.TrainLogger(tmp_path / "other", 0, 6, rate, config)
    for step, loss in enumerate((1.0, float("nan"), 3.0), 1):
        train_logger.step(step, metrics(loss, skipped=float(loss != loss)), 0.0, {})
    train_logger.close()
    (line,) = logged(tmp_path / "other")
    assert (line["loss"], line["skipped"]) == (2.0, 1.0)


def test_averages_are_of_the_steps_that_were_not_skipped(tmp_path, config):
    config.optimizer.nonfinite, config.log.every_steps = "skip", 4
    train_logger = logger.TrainLogger(tmp_path, 0, 8, rate, config)
    for step in range(1, 9):  # the gradients of steps 2 to 4 are not finite, of the others from 5 on the losses too
        train_logger.step(step, metrics(loss=2.0 if step < 5 else float("nan"), skipped=float(step > 1)), 0.0, {})
    train_logger.close()
    some, none = logged(tmp_path)
    assert [some[name] for name in ("loss", "grad_norm", "accuracy", "skipped")] == [2.0, 2.0, 0.5, 3.0]
    assert none["skipped"] == 4.0
    assert not {"loss", "grad_norm", "accuracy"} & set(none)


def test_the_steps_of_the_last_interval_are_logged_once(tmp_path, config):
    train_logger = logger.TrainLogger(tmp_path, 0, 5, rate, config)
    train_logger.log()
    for step in range(1, 6):
        train_logger.step(step, metrics(loss=step), 0.0, {})
    train_logger.log()
    train_logger.log()
    train_logger.close()
    assert [(line["step"], line["loss"]) for line in logged(tmp_path)] == [(3, 2.0), (5, 4.5)]


def test_the_heartbeat_goes_on_where_no_step_is_made(tmp_path, config, monkeypatch):
    train_logger = logger.TrainLogger(tmp_path, 4, 6, rate, config)
    beats = []
    for now in (100.0, 105.0, 111.0):
        monkeypatch.setattr(logger.time, "monotonic", lambda now=now: now)
        (tmp_path / logger.HEARTBEAT_FILE).unlink(missing_ok=True)
        train_logger.beat()
        beats.append((tmp_path / logger.HEARTBEAT_FILE).exists())
    train_logger.close()
    assert beats == [True, False, True]


def test_an_evaluation_that_was_logged_is_known_after_a_restart(tmp_path, config):
    train_logger = logger.TrainLogger(tmp_path, 0, 6, rate, config)
    train_logger.write(4, {"videos": 3, "top1": 0.5, "bad_image": 1.0}, "eval_")
    train_logger.write(5, {"loss": 1.0})
    train_logger.close()
    train_logger = logger.TrainLogger(tmp_path, 5, 6, rate, config)
    assert train_logger.evaluation(4) == {"videos": 3, "top1": 0.5}
    assert train_logger.evaluation(5) is None
    train_logger.close()


@pytest.mark.parametrize(
    ("start", "total", "traced"),
    [(0, 6, True), (0, 3, True), (2, 6, False)],
    ids=["whole", "ends with the run", "resumed inside"],
)
def test_a_trace_is_whole_or_not_begun(tmp_path, config, start, total, traced):
    config.profile_steps = (2, 3)
    train_logger = logger.TrainLogger(tmp_path, start, total, rate, config)
    for step in range(start + 1, total + 1):
        train_logger.profile(step)
        train_logger.step(step, metrics(), 0.0, {})
    train_logger.close()
    assert bool(list(tmp_path.glob("profile/**/*.xplane.pb"))) == traced


def test_a_resumed_run_writes_the_later_lines_again(tmp_path, config):
    for start in (0, 3):
        train_logger = logger.TrainLogger(tmp_path, start, 6, rate, config)
        for step in range(start + 1, 7):
            train_logger.step(step, metrics(loss=start), 0.0, {})
        train_logger.close()
    assert [(line["step"], line["loss"]) for line in logged(tmp_path)] == [(3, 0.0), (6, 3.0)]
