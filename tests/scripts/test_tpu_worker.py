"""scripts/launch/tpu_worker.sh with a stub of systemctl."""

import os
import shutil
import subprocess
import threading

import pytest
from helpers.launchers import ROOT, SCRIPTS, dry_run, launch, write_command


def test_start_creates_a_service_that_saves_on_shutdown():
    commands = dry_run("tpu_worker.sh", rest=["start", "--config=configs/demo.py", "--x=$a"])
    service = commands[-1]
    assert commands[0] == ["systemctl", "show", "--property=SubState", "--value", "dist_jax"]
    assert service[:4] == ["sudo", "systemd-run", "--quiet", "--unit=dist_jax"]
    assert {"--property=KillMode=mixed", "--property=TimeoutStopSec=300", "--remain-after-exit"} < set(service)
    # systemd reads $$ as $.
    main = [f"{ROOT}/.venv/bin/python", "-m", "dist_jax.main", "--distributed"]
    assert service[-6:] == [*main, "--config=configs/demo.py", "--x=$$a"]


def test_install_and_stop():
    install, stop = (dry_run("tpu_worker.sh", rest=[action]) for action in ("install", "stop"))
    assert install[-1][-2:] == ["--requirement=requirements.txt", "jax[tpu]"]
    assert stop == [["touch", f"{ROOT}/stopped"], ["sudo", "systemctl", "stop", "dist_jax"]]


@pytest.mark.parametrize(
    ("properties", "stopped", "status"),
    [
        ({"LoadState": "loaded", "ExecMainCode": 1, "ExecMainStatus": 0}, False, 0),
        ({"LoadState": "loaded", "ExecMainCode": 1, "ExecMainStatus": 75}, False, 75),
        ({"LoadState": "loaded", "ExecMainCode": 1, "ExecMainStatus": 75}, True, 130),
        ({"LoadState": "loaded", "ExecMainCode": 2, "ExecMainStatus": 9}, False, 137),
        ({"LoadState": "not-found", "ExecMainCode": 0, "ExecMainStatus": 0}, False, 75),
    ],
)
def test_follow_exits_with_the_status_of_training(tmp_path, properties, stopped, status):
    scripts = tmp_path / "scripts/launch"
    scripts.mkdir(parents=True)
    for name in ("tpu_worker.sh", "common.sh"):
        shutil.copy(SCRIPTS / name, scripts)
    (tmp_path / "run.log").write_text("step 1\n")
    if stopped:
        (tmp_path / "stopped").touch()
    training = subprocess.Popen(["sleep", "0.2"])
    reaper = threading.Thread(target=training.wait)  # without a wait, the ended process would appear to run
    reaper.start()
    answers = {"MainPID": training.pid, **properties}
    cases = "".join(f"--property={name}) echo {value} ;;\n" for name, value in answers.items())
    write_command(tmp_path, "systemctl", f'case "$2" in\n{cases}esac')
    result = launch(scripts / "tpu_worker.sh", "follow", PATH=f"{tmp_path}:{os.environ['PATH']}")
    reaper.join()
    assert (result.returncode, result.stdout) == (status, "step 1\n")
