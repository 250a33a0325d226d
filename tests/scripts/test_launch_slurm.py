"""scripts/launch/slurm.sh and slurm_job.sh with stubs of Slurm's commands."""

import os
import shutil

import pytest
from helpers.launchers import ROOT, SLURM, dry_run, launch, write_command


def test_a_job_has_one_process_per_node_and_requeues_itself():
    arguments = [".venv/bin/python", "--config=configs/demo.py", "--workdir=/shared/run"]
    devices = "JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7"
    assert dry_run("slurm.sh", *SLURM, "--time=12:00:00", "--partition=gpu", "--account=us") == [
        ["mkdir", "-p", "/shared/run"],
        [
            *["sbatch", "--job-name=dist_jax", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8"],
            *["--cpus-per-task=96", "--time=12:00:00", "--partition=gpu", "--account=us"],
            *["--requeue", "--signal=TERM@120", "--open-mode=append", "--output=/shared/run/slurm-%j.log"],
            *[f"--chdir={ROOT}", "scripts/launch/slurm_job.sh", *arguments],
        ],
        [
            *["srun", "--kill-on-bad-exit=0", "--wait=300", "--cpus-per-task=96", "env", devices],
            *[".venv/bin/python", "-m", "dist_jax.main", "--distributed", *arguments[1:]],
        ],
        ["scontrol", "requeue", "JOB"],
    ]


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (75, True), (1, False), (137, False)])
def test_a_job_requeues_only_after_a_save(tmp_path, status, requeued):
    write_command(tmp_path, "srun", f"exit {status}")
    write_command(tmp_path, "scontrol", f'echo "$*" >{tmp_path}/requeued')
    slurm = {"SLURM_JOB_ID": "17", "SLURM_GPUS_ON_NODE": "1", "SLURM_CPUS_PER_TASK": "2"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    result = launch("slurm_job.sh", "python", "--config=configs/demo.py", PATH=path, **slurm)
    assert (result.returncode, result.stderr) == (status, "")
    assert (tmp_path / "requeued").exists() == requeued
    assert not requeued or (tmp_path / "requeued").read_text() == "requeue 17\n"


def test_a_percent_sign_in_the_workdir_is_no_pattern_of_sbatch():
    _, submitted, started, _ = dry_run("slurm.sh", *SLURM, "--workdir=/shared/50%u")
    assert "--output=/shared/50%%u/slurm-%j.log" in submitted
    assert "--workdir=/shared/50%u" in submitted
    assert "--workdir=/shared/50%u" in started


@pytest.mark.parametrize("limit", ["3", "3:00", "00:03:00", "0-0:03", "1-0", "08", "12:00:00", "2-00:00:00"])
def test_a_time_limit_reaches_sbatch_as_given(limit):
    assert f"--time={limit}" in dry_run("slurm.sh", *SLURM, f"--time={limit}")[1]


def test_the_configuration_may_have_an_argument():
    assert "--config=configs/demo.py:a:b" in dry_run("slurm.sh", *SLURM, "--config=configs/demo.py:a:b")[1]


def test_without_slurm_nothing_is_submitted(tmp_path):
    for command in ("bash", "dirname"):
        (tmp_path / command).symlink_to(shutil.which(command))
    result = launch("slurm.sh", *SLURM, PATH=str(tmp_path))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: sbatch is missing: run this script on a machine of the Slurm cluster\n"


def test_a_missing_interpreter_is_found_before_the_job_is_submitted(tmp_path):
    write_command(tmp_path, "sbatch", "exit 1")
    path = f"{tmp_path}:{os.environ['PATH']}"
    result = launch("slurm.sh", *SLURM, "--python=.venv/bin/python9", PATH=path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: --python=.venv/bin/python9: no such program in {ROOT}; create .venv or use another --python\n"
    )
