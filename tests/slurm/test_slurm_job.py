"""scripts/launch/slurm.sh on a real Slurm with one node. Its "GPU" is a CPU. See tests/slurm/install.sh."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import one_node_slurm, training_run
from helpers.launchers import ROOT
from helpers.one_node_slurm import Slurm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(one_node_slurm.missing_commands()),
        reason=f"Slurm is not installed: {', '.join(one_node_slurm.missing_commands())} (tests/slurm/install.sh)",
    ),
]

NUM_STEPS = 30
FLAGS = [f"--config.steps={NUM_STEPS}", "--config.eval.every_epochs=12"]  # an evaluation after each 15 steps


@pytest.fixture
def slurm():
    with one_node_slurm.one_node_slurm() as slurm:
        yield slurm


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return training_run.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """Workdir of the same training without Slurm and without interruption."""
    workdir = tmp_path_factory.mktemp("reference")
    [(status, output)] = training_run.run_mains([[*training_run.flags(data, workdir), *FLAGS]])
    assert status == 0, output
    return workdir


def submit(slurm: Slurm, data: Path, workdir: Path) -> str:
    """Submits the training with slurm.sh. Returns the job id."""
    options = ["--nodes=1", "--gpus=1", "--cpus=2", "--time=01:00:00", f"--python={sys.executable}"]
    config = f"--config=tests/helpers/training_run.py:{data}"
    command = ["bash", "scripts/launch/slurm.sh", *options, config, f"--workdir={workdir}", "--", *FLAGS]
    environment = {**training_run.environment(), **slurm.environment}
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return re.fullmatch(r"Submitted batch job (\d+)\n", output)[1]


def pause_after_first_steps(slurm: Slurm, job_id: str, workdir: Path) -> int:
    """Stops the training process in one of its first steps. Returns its process id.

    Slurm needs up to 30 s to send a signal. A stopped process receives it in the next step, so that few steps suffice
    on a machine of any speed.
    """
    process_id = slurm.task(job_id)
    training_run.wait_for_step(workdir, 1, lambda: one_node_slurm.is_running(process_id))
    assert one_node_slurm.is_running(process_id), slurm.describe(slurm.job(job_id))
    os.kill(process_id, signal.SIGSTOP)
    return process_id


def saved_step(workdir: Path) -> int:
    """Step of the newest checkpoint, which is neither at the start nor at the end."""
    step, _ = training_run.newest_checkpoint(workdir)
    assert 0 < step < NUM_STEPS
    return step


def events(job_log: Path) -> list[str]:
    """The lines about the start, the preemption and the exit status of training."""
    pattern = r"(?:starting|resuming|finished) at step \d+|preempted: step \d+ is saved|Exited with exit code \d+"
    return re.findall(pattern, job_log.read_text())


def assert_equals_reference(workdir: Path, reference: Path) -> None:
    """Every step is logged once, and the losses and parameters are bitwise equal."""
    assert training_run.read_losses(workdir) == training_run.read_losses(reference)
    (step, params), (expected_step, expected) = map(training_run.newest_checkpoint, (workdir, reference))
    assert step == expected_step == NUM_STEPS
    assert params.keys() == expected.keys()
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_a_job_saves_before_its_time_limit_is_requeued_and_resumes(slurm, data, reference, tmp_path):
    job_id = submit(slurm, data, tmp_path)
    process_id = pause_after_first_steps(slurm, job_id, tmp_path)
    slurm.update(job_id, EndTime="now+140")  # seconds: the time limit is near, and Slurm sends SIGTERM 120 s before it
    slurm.wait(job_id, "SIGTERM", lambda _: not one_node_slurm.is_stopped(process_id))
    one_node_slurm.resume(process_id)

    assert slurm.wait_for_state(job_id, "PENDING")["Restarts"] == "1"
    step = saved_step(tmp_path)
    # Slurm delays a requeued job by two minutes. It needs a second at least: slurmd refuses a job that has just ended.
    slurm.update(job_id, TimeLimit="60", StartTime="now+5")
    job = slurm.wait_for_state(job_id, "COMPLETED")

    assert (job["Restarts"], job["ExitCode"]) == ("1", "0:0")
    assert events(tmp_path / f"slurm-{job_id}.log") == [
        "starting at step 0",
        f"preempted: step {step} is saved",
        "Exited with exit code 75",
        f"resuming at step {step}",
    ]
    # A requeued job is pending again when Slurm records the end of its first run.
    assert slurm.ended_jobs() == [(job_id, "PENDING"), (job_id, "COMPLETED")]
    assert_equals_reference(tmp_path, reference)


def test_a_cancelled_job_saves_and_ends_and_the_next_job_resumes(slurm, data, reference, tmp_path):
    job_id = submit(slurm, data, tmp_path)
    process_id = pause_after_first_steps(slurm, job_id, tmp_path)
    slurm.run("scancel", job_id)
    one_node_slurm.wait_for_sigterm(process_id)
    one_node_slurm.resume(process_id)

    assert slurm.wait_for_state(job_id, "CANCELLED")["Restarts"] == "0"
    step = saved_step(tmp_path)
    next_job_id = submit(slurm, data, tmp_path)
    slurm.wait_for_state(next_job_id, "COMPLETED")

    assert events(tmp_path / f"slurm-{next_job_id}.log") == [f"resuming at step {step}"]
    assert slurm.ended_jobs() == [(job_id, "CANCELLED"), (next_job_id, "COMPLETED")]
    assert_equals_reference(tmp_path, reference)


def test_all_processes_end_with_slurm(tmp_path):
    with one_node_slurm.one_node_slurm() as slurm:
        script = tmp_path / "job.sh"
        script.write_text("#!/usr/bin/env bash\ntrap '' TERM\nsrun bash -c 'trap \"\" TERM; sleep 1000; :'\n")
        job_id = re.search(r"\d+", slurm.run("sbatch", f"--output={tmp_path}/log", str(script)))[0]
        processes = [slurm.task(job_id)]
        for name in ("munge", "slurmctld", "slurmd"):
            processes.append(int((slurm.logs.parent / f"{name}.pid").read_text()))
        assert all(map(one_node_slurm.is_running, processes))
    assert not any(map(one_node_slurm.is_running, processes))
    assert not slurm.logs.parent.exists()
