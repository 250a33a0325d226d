"""The steps of a run after which it evaluates."""

import pytest

from dist_jax import config as settings
from dist_jax.training.step_plan import StepPlan


@pytest.mark.parametrize(
    ("num_records", "batch_size", "steps", "every_epochs", "expected"),
    [
        (1000, 100, 30, 1.0, [10, 20, 30]),
        (1040, 100, 31, 1.0, [10, 20, 31]),  # 10.4 steps per epoch, rounded to 10: not at 30 and 31
        (1000, 100, 34, 1.0, [10, 20, 34]),  # step 30 is less than half an interval before the end
        (1000, 100, 35, 1.0, [10, 20, 30, 35]),
        (1000, 100, 30, 100.0, [30]),
        (1000, 100, 12, 0.1, [*range(1, 13)]),
    ],
)
def test_evaluations_are_at_least_half_an_interval_before_the_last_one(
    num_records, batch_size, steps, every_epochs, expected
):
    config = settings.defaults()
    config.batch_size, config.steps, config.eval.every_epochs = batch_size, steps, every_epochs
    config.optimizer.warmup_epochs = 0.0
    plan = StepPlan(config, num_records)
    assert [step for step in range(1, steps + 1) if plan.is_eval_step(step)] == expected
    assert plan.num_evals == len(expected)


def test_the_published_run_on_kinetics_evaluates_once_per_epoch():
    config = settings.defaults()
    config.batch_size = 256
    plan = StepPlan(config, 240_436)
    assert (plan.num_steps, plan.eval_every_steps) == (33811, 939)
    assert not plan.is_eval_step(33804)
    assert plan.num_evals == 36
