"""Several processes as one system: they train, save, stop, resume and fail together."""

import shutil
import signal

import numpy as np
import pytest
from helpers import training_run
from helpers.training_run import losses, metrics, newest

from dist_jax.distributed import multihost
from dist_jax.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


def same_losses(workdir, undisturbed):
    expected = losses(undisturbed[0])
    found = losses(workdir)
    np.testing.assert_allclose(list(found.values()), [expected[step] for step in found], rtol=1e-5)
    return max(found)


def test_what_one_process_began_four_go_on_with_until_a_notice_to_one_stops_all_and_two_finish(
    training_data,
    undisturbed,
    stopped,
    tmp_path,
):
    workdir = shutil.copytree(stopped[0], tmp_path / "run")
    four = training_run.Hosts(4, 2, tmp_path / "four", training_run.flags(training_data, workdir))
    training_run.wait_for_step(workdir, stopped[1] + 1, four.running)
    four.processes[2].send_signal(signal.SIGTERM)
    assert four.wait() == [75] * 4, four.output(0)
    step = newest(workdir)[0]
    assert stopped[1] < step < training_run.STEPS
    assert same_losses(workdir, undisturbed) == step
    assert f"step {step} is saved" in four.output(0)

    two = training_run.Hosts(2, 2, tmp_path / "two", training_run.flags(training_data, workdir))
    assert two.wait() == [0, 0], two.output(0)
    assert same_losses(workdir, undisturbed) == training_run.STEPS
    assert f"resuming at step {step}" in two.output(0)
    assert "step" not in two.output(1)  # only process 0 tells and writes
    evaluations = [[line for line in metrics(of) if "eval_top1" in line] for of in (workdir, undisturbed[0])]
    assert evaluations[0] == evaluations[1]


def test_a_failure_on_one_host_ends_all_with_its_message(training_data, tmp_path):
    wrong = f"--config.data.val={training_data}/none@2"
    pair = training_run.Hosts(2, 1, tmp_path / "pair", training_run.flags(training_data, tmp_path / "run"), (wrong,))
    assert pair.wait() == [1, 1]
    assert f"error: process 1 failed: {training_data}/none@2: 2 of 2 shards are missing" in pair.output(0)
    assert f"error: {training_data}/none@2: 2 of 2 shards are missing" in pair.output(1)
    assert "Traceback" not in pair.output(0) + pair.output(1)


def test_hosts_that_are_not_all_named_are_refused():
    with pytest.raises(UserError, match="needs --processes"):
        multihost.join("localhost:1234", processes=2)
    with pytest.raises(UserError, match="--process=2: with --processes=2 it must be from 0 to 1"):
        multihost.join("localhost:1234", 2, 2)
    with pytest.raises(UserError, match="localhost has no port"):
        multihost.join("localhost", 2, 0)


def test_alone_an_error_passes_as_it_is():
    with pytest.raises(KeyError), multihost.failing_together():
        raise KeyError("x")
