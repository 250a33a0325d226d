"""Several processes train, save, stop, resume and fail together."""

import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import training_run
from helpers.training_run import newest_checkpoint, read_losses, read_metrics

from dist_jax.distributed import multihost
from dist_jax.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


def last_step_with_same_losses(workdir, finished_run) -> int:
    """The last logged step, after a check that all losses equal those of the finished run."""
    expected, actual = read_losses(finished_run[0]), read_losses(workdir)
    np.testing.assert_allclose(list(actual.values()), [expected[step] for step in actual], rtol=1e-5)
    return max(actual)


def test_a_run_continues_on_four_processes_until_preemption_and_then_on_two(
    training_data, finished_run, preempted_run, tmp_path
):
    workdir = shutil.copytree(preempted_run[0], tmp_path / "run")
    four = training_run.Hosts(4, 2, tmp_path / "four", training_run.flags(training_data, workdir))
    training_run.wait_for_step(workdir, preempted_run[1] + 1, four.running)
    four.processes[2].send_signal(signal.SIGTERM)
    assert four.wait() == [75] * 4, four.output(0)
    step = newest_checkpoint(workdir)[0]
    assert preempted_run[1] < step < training_run.NUM_STEPS
    assert last_step_with_same_losses(workdir, finished_run) == step
    assert f"step {step} is saved" in four.output(0)

    two = training_run.Hosts(2, 2, tmp_path / "two", training_run.flags(training_data, workdir))
    assert two.wait() == [0, 0], two.output(0)
    assert last_step_with_same_losses(workdir, finished_run) == training_run.NUM_STEPS
    assert f"resuming at step {step}" in two.output(0)
    assert "step" not in two.output(1)  # only process 0 prints and writes
    folders = (workdir, finished_run[0])
    evaluations = [[line for line in read_metrics(folder) if "eval_top1" in line] for folder in folders]
    assert evaluations[0] == evaluations[1]


def test_a_failure_on_one_host_ends_all_hosts_with_its_message(training_data, tmp_path):
    invalid = f"--config.data.val={training_data}/none@2"
    pair = training_run.Hosts(2, 1, tmp_path / "pair", training_run.flags(training_data, tmp_path / "run"), (invalid,))
    assert pair.wait() == [1, 1]
    assert f"error: process 1 failed: {training_data}/none@2: 2 of 2 shards are missing" in pair.output(0)
    assert f"error: {training_data}/none@2: 2 of 2 shards are missing" in pair.output(1)
    assert "Traceback" not in pair.output(0) + pair.output(1)


def test_incomplete_or_invalid_host_arguments_are_refused():
    with pytest.raises(UserError, match="needs --processes"):
        multihost.initialize("localhost:1234", num_processes=2)
    with pytest.raises(UserError, match="--process=2: with --processes=2 it must be from 0 to 1"):
        multihost.initialize("localhost:1234", 2, 2)
    with pytest.raises(UserError, match="localhost has no port"):
        multihost.initialize("localhost", 2, 0)


@pytest.mark.parametrize(
    ("error", "message", "status"),
    [
        (UserError("no shards"), "process 0 failed: no shards", 1),
        (KeyError(), "process 0 failed: KeyError", 1),
        (KeyboardInterrupt(), "process 0 interrupted", 130),
    ],
)
def test_an_error_or_an_interrupt_of_a_host_is_reported_to_the_others(error, message, status, monkeypatch):
    reported, statuses = {}, []
    client = SimpleNamespace(key_value_set=reported.__setitem__, wait_at_barrier=lambda *_: None)
    monkeypatch.setattr(multihost.jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost, "_exit_on_remote_failure", lambda done: None)
    monkeypatch.setattr(multihost.jax, "process_index", lambda: 0)
    monkeypatch.setattr(multihost, "distributed", SimpleNamespace(global_state=SimpleNamespace(client=client)))
    monkeypatch.setattr(multihost.os, "_exit", statuses.append)
    with multihost.share_failures():
        raise error
    assert (*reported.values(), *statuses) == (message, status)


def test_a_single_process_raises_the_original_error():
    with pytest.raises(KeyError), multihost.share_failures():
        raise KeyError("x")
