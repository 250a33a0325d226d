import argparse
import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from dist_jax.models.dist_network import DistConfig, DistNetwork
from scripts import estimate_cost

ROOT = Path(__file__).parents[2]
TPU = ["run", "--name=demo", "--zone=us-east5-b", "--type=v6e-16", "--config=configs/demo.py", "--workdir=gs://b/run"]
GKE = [*TPU, "--cluster=pool"]
SLURM = ["--nodes=2", "--gpus=8", "--cpus=96", "--config=configs/demo.py", "--workdir=/shared/run"]
LIST = [
    *["gcloud", "compute", "tpus", "queued-resources", "list", "--filter=name~/demo$"],
    "--format=value(state.state,tpu.nodeSpec[0].node.acceleratorType.basename())",
    "--zone=us-east5-b",
]
WORKER = "bash dist_jax/scripts/tpu_worker.sh"


def launch(script, *arguments, cwd=ROOT, **environment):
    environment = {"PATH": os.environ["PATH"], "HOME": "/home/me", **environment}
    command = ["bash", script, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def dry_run(script, *options, rest=()):
    """The commands that a dry run prints, as lists of words; comments are left out."""
    result = launch(f"scripts/{script}", *options, "--dry-run", *rest)
    assert (result.returncode, result.stderr) == (0, "")
    return [shlex.split(line) for line in result.stdout.splitlines() if not line.startswith("#")]


def on_workers(which, command):
    ssh = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "demo"]
    return [*ssh, f"--worker={which}", f"--command={command}", "--zone=us-east5-b"]


# --- TPU slices


def test_tpu_run_creates_installs_starts_and_follows():
    archive = "/home/me/.cache/dist_jax/launch/demo.tar.gz"
    sent = ["dist_jax", "configs", "scripts", "requirements.txt"]
    assert dry_run("launch_tpu.sh", *TPU, "--spot") == [
        LIST,
        [
            *["gcloud", "compute", "tpus", "queued-resources", "create", "demo", "--node-id=demo"],
            *["--accelerator-type=v6e-16", "--runtime-version=v2-alpha-tpuv6e", "--spot", "--zone=us-east5-b"],
        ],
        LIST,
        ["mkdir", "-p", "/home/me/.cache/dist_jax/launch"],
        ["tar", "--create", "--gzip", f"--file={archive}", "--exclude=__pycache__", f"--directory={ROOT}", *sent],
        [
            *["gcloud", "compute", "tpus", "tpu-vm", "scp", archive, "demo:dist_jax.tar.gz"],
            *["--worker=all", "--zone=us-east5-b"],
        ],
        on_workers("all", "tar --extract --gzip --file=dist_jax.tar.gz --one-top-level=dist_jax"),
        on_workers("all", f"{WORKER} install"),
        on_workers("all", f"{WORKER} start --config=configs/demo.py --workdir=gs://b/run"),
        on_workers(0, f"{WORKER} follow"),
    ]


@pytest.mark.parametrize(
    ("accelerator", "runtime"),
    [
        ("v5litepod-64", "v2-alpha-tpuv5-lite"),
        ("v6e-16", "v2-alpha-tpuv6e"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v4-32", "tpu-ubuntu2204-base"),
    ],
)
def test_tpu_runtime_follows_the_type_unless_given(accelerator, runtime):
    run = [*TPU, f"--type={accelerator}"]
    assert f"--runtime-version={runtime}" in dry_run("launch_tpu.sh", *run)[1]
    assert "--runtime-version=own" in dry_run("launch_tpu.sh", *run, "--runtime=own")[1]


def test_flags_reach_main_as_they_are_however_they_are_written():
    flags = ["--config.data.train=gs://b/it's $HOME", "--config.backbone.layers=(1, 3)", "; rm -rf /", "--dry-run"]
    rest = ["--", *flags]
    words = ["--config=configs/demo.py", "--workdir=gs://b/run", *flags]
    start = dry_run("launch_tpu.sh", *TPU, rest=rest)[-2]
    remote = next(word for word in start if word.startswith("--command=")).removeprefix("--command=")
    assert shlex.split(remote) == [*shlex.split(WORKER), "start", *words]
    _, submitted, started, _ = dry_run("launch_slurm.sh", *SLURM, rest=rest)
    assert submitted[-len(flags) :] == started[-len(flags) :] == flags
    workload = dry_run("launch_gke.sh", *GKE, rest=rest)[-1]
    assert shlex.split(workload[-1])[-len(words) :] == words


def test_tpu_log_stop_and_delete():
    where = ["--name=demo", "--zone=us-east5-b", "--project=mine"]
    delete = [*["gcloud", "compute", "tpus", "queued-resources", "delete", "demo", "--force", "--quiet"], *where[1:]]
    assert dry_run("launch_tpu.sh", "log", *where) == [[*on_workers(0, f"{WORKER} follow"), where[2]]]
    assert dry_run("launch_tpu.sh", "stop", *where) == [[*on_workers("all", f"{WORKER} stop"), where[2]]]
    assert dry_run("launch_tpu.sh", "delete", *where) == [delete]


class Cloud:
    """Stands in for Google's cloud: a `gcloud` that answers from two lists and writes down what it was asked.

    Where the state is SILENT, it fails as without a network. `sleep` writes down how long, and does not."""

    def __init__(self, folder, states, ends):
        self.folder = folder
        (folder / "states").write_text("".join(f"{state}\n" for state in states))
        (folder / "ends").write_text("".join(f"{end}\n" for end in ends))
        self.command(
            "gcloud",
            'printf "%s\\n" "$*" >>calls\n'
            'next() { head -n 1 "$1"; sed 1d "$1" >rest; mv rest "$1"; }\n'
            'case "$*" in\n'
            '*queued-resources\\ list*) state="$(next states)"; echo "$state"\n'
            'if [[ "$state" == SILENT ]]; then echo "ERROR: unreachable" >&2; exit 1; fi ;;\n'
            '*queued-resources\\ create*) [[ ! -e refused ]] || { rm refused; echo "ERROR: quota" >&2; exit 1; } ;;\n'
            '*follow*) exit "$(next ends)" ;;\n'
            "esac\n",
        )
        self.command("sleep", 'echo "sleep $1" >>calls\n')

    def command(self, name, script):
        path = self.folder / name
        path.write_text(f"#!/usr/bin/env bash\n{script}")
        path.chmod(0o755)

    def run(self, *arguments):
        path = f"{self.folder}:{os.environ['PATH']}"
        arguments = [*TPU, "--poll=7", *arguments]
        return launch(ROOT / "scripts/launch_tpu.sh", *arguments, cwd=self.folder, PATH=path, HOME=str(self.folder))

    def calls(self):
        return (self.folder / "calls").read_text().splitlines()

    def asked(self, pattern):
        """How many calls of gcloud match the pattern."""
        return sum(bool(re.search(pattern, call)) for call in self.calls())

    def answers_left(self):
        return (self.folder / "states").read_text() + (self.folder / "ends").read_text()


ACTIVE = "ACTIVE\tv6e-16"


def test_tpu_run_goes_on_after_preemption_and_after_a_save(tmp_path):
    states = ["", "WAITING_FOR_RESOURCES", ACTIVE]  # asked for, waited for
    states += ["SUSPENDING\tv6e-16", "SUSPENDING\tv6e-16", "SUSPENDED\tv6e-16", "", ACTIVE]  # taken away, made anew
    states += [ACTIVE, ACTIVE]  # saved and stopped, started on the same slice
    cloud = Cloud(tmp_path, states, ends=[255, 75, 0])
    result = cloud.run()
    assert result.returncode == 0, result.stderr
    assert cloud.asked("queued-resources create") == 2
    assert cloud.asked("queued-resources delete") == 1
    assert cloud.asked("tpu_worker.sh start") == 3
    assert cloud.asked("tpu_worker.sh stop") == 1
    assert cloud.asked("^sleep 7$") == 4  # two looks at what is no slice yet or any more, two new starts
    assert cloud.answers_left() == ""
    with tarfile.open(tmp_path / ".cache/dist_jax/launch/demo.tar.gz") as archive:
        names = archive.getnames()
    assert {"dist_jax/config.py", "configs/demo.py", "scripts/tpu_worker.sh", "requirements.txt"} <= set(names)
    assert not any("__pycache__" in name for name in names)


def test_tpu_run_waits_while_gcloud_does_not_answer(tmp_path):
    states = [ACTIVE, "SILENT", "SILENT", ACTIVE, ACTIVE]  # the connection is lost, and with it the network for a while
    states += ["SILENT", "SUSPENDED\tv6e-16", "SUSPENDED\tv6e-16", "", "CREATING", "SILENT", ACTIVE]
    cloud = Cloud(tmp_path, states, ends=[255, 255, 0])
    result = cloud.run()
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("no answer from gcloud; asking again in 7 seconds\n") == 4
    assert cloud.asked("queued-resources create") == 1  # no answer is not "no slice"
    assert cloud.asked("queued-resources delete") == 1
    assert cloud.answers_left() == ""
    listed = [index for index, call in enumerate(cloud.calls()) if "queued-resources list" in call]
    assert [cloud.calls()[index + 1] for index in listed[1:3]] == ["sleep 7", "sleep 7"]


def test_tpu_run_ends_where_gcloud_answers_nothing_at_first(tmp_path):
    cloud = Cloud(tmp_path, ["SILENT"], ends=[])
    result = cloud.run()
    message = "error: gcloud, whose message is above, does not say whether there is a slice demo"
    assert (result.returncode, result.stderr) == (2, f"ERROR: unreachable\n{message}\n")
    assert len(cloud.calls()) == 1


def test_tpu_run_asks_again_for_a_slice_only_after_training_began(tmp_path):
    (tmp_path / "refused").touch()
    cloud = Cloud(tmp_path, ["", ""], ends=[])
    result = cloud.run()
    message = "error: gcloud, whose message is above, does not make a slice demo"
    assert (result.returncode, result.stderr) == (2, f"ERROR: quota\n{message}\n")
    assert cloud.asked("queued-resources create") == 1
    cloud = Cloud(tmp_path, [ACTIVE, "SUSPENDED\tv6e-16", "SUSPENDED\tv6e-16", "", "", "", ACTIVE], ends=[255, 0])
    (tmp_path / "refused").touch()
    assert cloud.run().returncode == 0
    assert cloud.asked("queued-resources create") == 3
    assert cloud.answers_left() == ""


def test_tpu_run_waits_before_it_starts_again(tmp_path):
    cloud = Cloud(tmp_path, [ACTIVE] * 4, ends=[75, 0])
    assert cloud.run().returncode == 0
    start, stop, sleep = (
        [i for i, call in enumerate(cloud.calls()) if re.search(pattern, call)]
        for pattern in ("tpu_worker.sh start", "tpu_worker.sh stop", "^sleep 7$")
    )
    assert start[0] < stop[0] < sleep[0] < start[1]
    assert len(sleep) == 1


def test_tpu_run_ends_where_training_fails(tmp_path):
    cloud = Cloud(tmp_path, [ACTIVE, ACTIVE], ends=[1])
    result = cloud.run()
    assert result.returncode == 2
    assert result.stderr == "error: training ended with status 1; the slice is still there, the log shows why\n"
    assert cloud.asked("tpu_worker.sh start") == 1


def test_tpu_run_ends_after_stop_and_after_too_many_restarts(tmp_path):
    assert Cloud(tmp_path, [ACTIVE], ends=[130]).run().returncode == 130
    result = Cloud(tmp_path, [ACTIVE] * 4, ends=[75, 75]).run("--restarts=1")
    assert result.returncode == 2
    assert "error: training stopped with status 75 after --restarts=1 new starts" in result.stderr


def test_tpu_run_refuses_a_slice_of_another_type(tmp_path):
    result = Cloud(tmp_path, ["ACTIVE\tv5litepod-8"], ends=[]).run()
    expected = "error: demo is a v5litepod-8, not --type=v6e-16: choose another --name, or delete it first\n"
    assert (result.returncode, result.stderr) == (2, expected)


def test_worker_starts_one_service_that_saves_on_shutdown():
    commands = dry_run("tpu_worker.sh", rest=["start", "--config=configs/demo.py", "--x=$a"])
    service = commands[-1]
    assert commands[0] == ["systemctl", "show", "--property=SubState", "--value", "dist_jax"]
    assert service[:4] == ["sudo", "systemd-run", "--quiet", "--unit=dist_jax"]
    assert {"--property=KillMode=mixed", "--property=TimeoutStopSec=300", "--remain-after-exit"} < set(service)
    # systemd reads $$ as $.
    main = [f"{ROOT}/.venv/bin/python", "-m", "dist_jax.main", "--distributed"]
    assert service[-6:] == [*main, "--config=configs/demo.py", "--x=$$a"]


def test_worker_installs_and_stops():
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
def test_worker_follow_ends_as_training_did(tmp_path, properties, stopped, status):
    (tmp_path / "scripts").mkdir()
    for name in ("tpu_worker.sh", "launching.sh"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    (tmp_path / "run.log").write_text("step 1\n")
    if stopped:
        (tmp_path / "stopped").touch()
    training = subprocess.Popen(["sleep", "0.2"])
    reaper = threading.Thread(target=training.wait)  # an ended process that nobody waits for would seem to run
    reaper.start()
    answers = {"MainPID": training.pid, **properties}
    cases = "".join(f"--property={name}) echo {value} ;;\n" for name, value in answers.items())
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/usr/bin/env bash\ncase "$2" in\n{cases}esac\n')
    systemctl.chmod(0o755)
    result = launch(tmp_path / "scripts/tpu_worker.sh", "follow", PATH=f"{tmp_path}:{os.environ['PATH']}")
    reaper.join()
    assert (result.returncode, result.stdout) == (status, "step 1\n")


# --- Slurm


def test_slurm_submits_one_process_a_node_that_requeues():
    arguments = [".venv/bin/python", "--config=configs/demo.py", "--workdir=/shared/run"]
    devices = "JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7"
    assert dry_run("launch_slurm.sh", *SLURM, "--time=12:00:00", "--partition=gpu", "--account=us") == [
        ["mkdir", "-p", "/shared/run"],
        [
            *["sbatch", "--job-name=dist_jax", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8"],
            *["--cpus-per-task=96", "--time=12:00:00", "--partition=gpu", "--account=us"],
            *["--requeue", "--signal=TERM@120", "--open-mode=append", "--output=/shared/run/slurm-%j.log"],
            *[f"--chdir={ROOT}", "scripts/slurm_job.sh", *arguments],
        ],
        [
            *["srun", "--kill-on-bad-exit=0", "--wait=300", "--cpus-per-task=96", "env", devices],
            *[".venv/bin/python", "-m", "dist_jax.main", "--distributed", *arguments[1:]],
        ],
        ["scontrol", "requeue", "JOB"],
    ]


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (75, True), (1, False), (137, False)])
def test_slurm_job_requeues_after_a_save_alone(tmp_path, status, requeued):
    for name, script in (("srun", f"exit {status}"), ("scontrol", f'echo "$*" >{tmp_path}/requeued')):
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "17", "SLURM_GPUS_ON_NODE": "1", "SLURM_CPUS_PER_TASK": "2"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    result = launch("scripts/slurm_job.sh", "python", "--config=configs/demo.py", PATH=path, **slurm)
    assert (result.returncode, result.stderr) == (status, "")
    assert (tmp_path / "requeued").exists() == requeued
    assert not requeued or (tmp_path / "requeued").read_text() == "requeue 17\n"


# --- GKE


def test_gke_submits_a_workload_that_restarts_on_75():
    copy = "/home/me/.cache/dist_jax/launch/demo"
    sent = [f"{ROOT}/{name}" for name in ("dist_jax", "configs", "scripts", "requirements.txt")]
    training = "exec python3 -m dist_jax.main --distributed --config=configs/demo.py --workdir=gs://b/run"
    install = "python3 -m pip install --quiet --requirement=requirements.txt jax\\[tpu\\] && "
    workload = ["xpk", "workload", "create", "--workload=demo", "--cluster=pool", "--zone=us-east5-b"]
    options = [f"--script-dir={copy}", "--max-restarts=100", "--restart-on-exit-codes=75"]
    options += ["--termination-grace-period-seconds=300"]
    expected = [["rm", "-rf", copy], ["mkdir", "-p", copy], ["cp", "-R", *sent, copy]]
    assert dry_run("launch_gke.sh", *GKE) == [
        *expected,
        [
            *[*workload, "--tpu-type=v6e-16", "--base-docker-image=python:3.12-slim", *options],
            f"--command={install}{training}",
        ],
    ]
    assert dry_run("launch_gke.sh", *GKE, "--image=us/dist:1")[-1] == [
        *[*workload, "--tpu-type=v6e-16", "--base-docker-image=us/dist:1", *options],
        f"--command={training}",
    ]


def test_gke_log_tells_no_answer_from_no_cluster(tmp_path):
    gcloud = tmp_path / "gcloud"
    where = ["--name=demo", "--cluster=pool", "--zone=us-east5-b"]
    for script, status, message in (
        ("echo 'ERROR: unreachable' >&2; exit 1", 1, "ERROR: unreachable\n"),
        ("exit 0", 2, "error: --cluster=pool: gcloud lists no such cluster\n"),
    ):
        gcloud.write_text(f"#!/usr/bin/env bash\n{script}\n")
        gcloud.chmod(0o755)
        result = launch("scripts/launch_gke.sh", "log", *where, PATH=f"{tmp_path}:{os.environ['PATH']}")
        assert (result.returncode, result.stderr) == (status, message)


def test_gke_log_and_stop():
    where = ["--name=demo", "--cluster=pool", "--zone=us-east5-b", "--project=mine"]
    clusters = ["gcloud", "container", "clusters"]
    selector = "xpk.google.com/workload=demo,batch.kubernetes.io/job-completion-index=0"
    assert dry_run("launch_gke.sh", "log", *where) == [
        [*clusters, "list", "--filter=name=pool", "--format=value(location)", "--project=mine"],
        [*clusters, "get-credentials", "pool", "--location=us-east5", "--project=mine"],
        ["kubectl", "logs", "--follow", "--tail=100", "--container=jax-tpu", f"--selector={selector}"],
    ]
    delete = ["xpk", "workload", "delete", "--workload=demo", "--cluster=pool", *where[2:], "--force"]
    assert dry_run("launch_gke.sh", "stop", *where) == [delete]


# --- bad arguments, lint, notebook


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("launch_tpu.sh", [], "unknown action '': run, log, stop or delete (see --help)"),
        ("launch_tpu.sh", ["begin"], "unknown action 'begin'"),
        ("launch_tpu.sh", ["run", "--name", "demo"], "unknown argument '--name': options are written --name=value"),
        ("launch_tpu.sh", ["log"], "--name is missing, e.g. --name=my-run (see --help)"),
        ("launch_tpu.sh", ["log", "--name=Demo"], "--name='Demo' cannot be; it looks like --name=my-run"),
        ("launch_tpu.sh", ["log", "--name=demo"], "--zone is missing"),
        ("launch_tpu.sh", [*TPU, "--zone=us-east5"], "--zone='us-east5' cannot be"),
        ("launch_tpu.sh", [*TPU, "--type=h100"], "--type='h100' cannot be; it looks like --type=v5litepod-64"),
        ("launch_tpu.sh", [*TPU, "--type=v9-8"], "--type=v9-8: its TPU software version is not known here: give"),
        (
            "launch_tpu.sh",
            [*TPU, "--workdir=/tmp/run"],
            "--workdir='/tmp/run' cannot be; it looks like --workdir=gs://",
        ),
        ("launch_tpu.sh", [*TPU, "--config=configs/dem.py"], "--config=configs/dem.py: no such file in"),
        ("launch_tpu.sh", [*TPU, "--spot", "--reserved"], "--spot and --reserved exclude each other: give one"),
        ("launch_tpu.sh", [*TPU, "--restarts=many"], "--restarts='many' cannot be"),
        ("tpu_worker.sh", ["restart"], "unknown action 'restart': install, start, follow or stop (see --help)"),
        ("launch_slurm.sh", ["--nodes=0"], "--nodes='0' cannot be; it looks like --nodes=2"),
        ("launch_slurm.sh", [*SLURM, "--workdir=run"], "--workdir='run' cannot be; it looks like --workdir=/shared"),
        ("launch_slurm.sh", [*SLURM, "--time=soon"], "--time='soon' cannot be"),
        ("launch_slurm.sh", ["run"], "unknown argument 'run'"),
        ("launch_gke.sh", TPU, "--cluster is missing, e.g. --cluster=my-cluster (see --help)"),
        ("launch_gke.sh", [*GKE, "--image=a b"], "--image='a b' cannot be"),
    ],
)
def test_bad_arguments_are_refused_in_one_line_before_anything_runs(script, arguments, message):
    result = launch(f"scripts/{script}", *arguments, PATH="/usr/bin:/bin")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("script", ["launch_tpu.sh", "launch_slurm.sh", "launch_gke.sh", "tpu_worker.sh"])
def test_help_names_every_option(script):
    result = launch(f"scripts/{script}", "--help")
    options = set(
        re.findall(r"^ +(--[a-z-]+)(?:=\*)?(?: \| --[a-z]+)?\)", (ROOT / "scripts" / script).read_text(), re.M)
    )
    assert result.returncode == 0
    assert "usage: " in result.stdout
    assert {option for option in options - {"--help", "--"} if option not in result.stdout} == set()


def test_scripts_are_shellcheck_clean():
    beside_python = Path(sys.executable).parent / "shellcheck"
    shellcheck = beside_python if beside_python.exists() else shutil.which("shellcheck")
    assert shellcheck, "shellcheck is missing: pip install -r requirements-dev.txt"
    scripts = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "scripts").rglob("*.sh"))
    command = [shellcheck, "--shell=bash", "--external-sources", *scripts]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")


BASH_4 = {  # macOS has bash 3.2
    r"\b(mapfile|readarray|coproc|inherit_errexit|globstar|BASHPID|EPOCHSECONDS)\b": "words",
    r"\b(declare|local|typeset|readonly) -[a-zA-Z]*[Agnlu]": "associative arrays, references, letter cases",
    r"\$\{\w+(\[[^]]*\])?(,,?|\^\^?|@[A-Za-z])[^}]*\}": "letter cases, transformations",
    r"\[\[ !? ?-[vR] ": "tests of variables",
    r"\[-\d+\]|\$\{\w+:[^}]*: -\d": "counting from the end",
    r"\|&|&>>|;;&|;&": "redirections, cases",
    r"\bwait -n\b|%\(": "waiting for any, times",
}


@pytest.mark.parametrize(
    "script",
    ["environment.sh", "quickstart.sh", "test.sh", "launching.sh", "launch_tpu.sh", "launch_gke.sh", "launch_slurm.sh"],
)
def test_scripts_of_the_users_machine_run_on_bash_3(script):
    lines = (ROOT / "scripts" / script).read_text().splitlines()
    code = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    for pattern, what in BASH_4.items():
        assert re.findall(pattern, code) == [], what
    # An array without elements is an unset variable there, which `set -u` refuses.
    for name in re.findall(r"\b(\w+)=\((?:\)|\$\{\w+:\+)", code):
        bare = re.sub(rf'\$\{{{name}\[@\]\+"\$\{{{name}\[@\]\}}"\}}', "", code)
        assert f"${{{name}[@]}}" not in bare, name


def notebook():
    """The notebook, and what of its cells is Python: lines that begin with ! and % are IPython's."""
    whole = json.loads((ROOT / "scripts/dist_jax_colab.ipynb").read_text())
    code = [cell for cell in whole["cells"] if cell["cell_type"] == "code"]
    python = {cell["id"]: "".join(line for line in cell["source"] if not line.startswith(("!", "%"))) for cell in code}
    return whole, python


def test_notebook_is_plain_and_its_python_compiles():
    whole, python = notebook()
    assert (whole["nbformat"], whole["nbformat_minor"]) == (4, 5)
    assert python
    for cell in whole["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            compile(python[cell["id"]], cell["id"], "exec")
    ids = [cell["id"] for cell in whole["cells"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("start", [".", "dist_jax/scripts"])  # on Colab; in Jupyter, beside the notebook
def test_notebook_finds_or_clones_the_project_once(tmp_path, start):
    project = tmp_path / "dist_jax"
    make = f"mkdir -p {project}/dist_jax {project}/scripts && touch {project}/dist_jax/main.py"
    (tmp_path / "git").write_text(f'#!/usr/bin/env bash\necho "$*" >>{tmp_path}/calls\n{make}\n')
    (tmp_path / "git").chmod(0o755)
    if start != ".":
        subprocess.run(["bash", "-c", make], check=True)
    cell = notebook()[1]["install"]
    # A cell may be run twice, and once more in a session that was started again.
    twice = (
        f"cell = {cell!r}\ninput = lambda question: 'https://asked.for/it'\nexec(cell)\nexec(cell)\nprint(os.getcwd())"
    )
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for _ in range(2):
        command = [sys.executable, "-c", twice]
        result = subprocess.run(command, cwd=tmp_path / start, env=environment, capture_output=True, text=True)
        assert (result.returncode, result.stdout, result.stderr) == (0, f"{project}\n", "")
    clones = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
    expected = ["clone --quiet --depth=1 https://asked.for/it dist_jax"] if start == "." else []
    assert clones == expected


def test_notebook_and_quickstart_name_the_same_time():
    text = "".join(line for cell in notebook()[0]["cells"] for line in cell["source"])
    for said in (text, (ROOT / "scripts/quickstart.sh").read_text()):
        assert "under six minutes on two CPU cores after the install" in said


# --- costs


@pytest.mark.parametrize("name", ["vitb16-8+16", "vitl14-32+64"])
def test_counted_operations_are_those_of_the_network(name):
    # One layer of each kind, for XLA counts the body of a loop once, whatever the number of its passes.
    m = dataclasses.replace(estimate_cost.MODELS[name], L=1, P=1)
    config = DistConfig(m.T, m.T // m.S, (0,), m.patch, m.D, m.E, m.C, m.M, m.P)
    network = DistNetwork(config)
    features = jax.ShapeDtypeStruct((m.L, 1, m.S, 1 + m.N, m.D), jnp.float32)
    video = jax.ShapeDtypeStruct((1, m.T, 224, 224, 3), jnp.float32)
    summary = jax.ShapeDtypeStruct((1, m.S, m.D), jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), features, summary, video)
    counted = jax.jit(network.apply).lower(params, features, summary, video).cost_analysis()["flops"]
    # XLA counts additions, activations and norms as well, and leaves out the products with padding.
    assert estimate_cost.dist_flops(m) == pytest.approx(counted, rel=0.01)


def test_clip_operations_are_the_published_ones():
    # A frame of ViT-B/16 takes 17.6 G multiply-adds and one of ViT-L/14 81 G, at 224 pixels.
    per_frame = {name: estimate_cost.clip_flops(m) / m.S / 2e9 for name, m in estimate_cost.MODELS.items()}
    assert per_frame["vitb16-8+16"] == pytest.approx(17.6, rel=0.01)
    assert per_frame["vitl14-32+64"] == pytest.approx(81.0, rel=0.01)


def test_hours_and_cost_by_hand(monkeypatch):
    model = estimate_cost.Model(patch=16, N=196, D=768, L=12, T=16, S=8, E=512)
    machine = estimate_cost.Machine("two", "two", 2, 1e12, 3.0)
    assert estimate_cost.hours(machine, 3600 * 1e12, utilisation=0.5) == 1.0
    forward = estimate_cost.clip_flops(model) + estimate_cost.dist_flops(model)
    backward = 2 * estimate_cost.dist_flops(model)
    run = estimate_cost.run_flops(model, clips=10, epochs=2, val_videos=5, views=3, evaluations=1)
    assert run == pytest.approx(20 * (forward + backward) + 15 * forward)
    monkeypatch.setattr(estimate_cost, "MACHINES", (machine,))
    args = estimate_cost._parser().parse_args(["--price=two=4", "--utilisation=0.5"])
    row = estimate_cost.report(args)[-1].split(" | ")
    assert row[4] == "4.00"
    assert float(row[5].rstrip(" |")) == pytest.approx(float(row[1]) * 8, rel=0.01)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--clips=0"],
        ["--val-videos=0"],
        ["--eval-every-epochs=-1"],
        ["--epochs=-1"],
        ["--utilisation=1.5"],
        ["--price=v5e"],
        ["--price=v5=1"],
        ["--price=v5e=nan"],
    ],
)
def test_estimate_refuses_in_one_line(arguments):
    command = [sys.executable, "-m", "scripts.estimate_cost", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {arguments[0]}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("script", ["soak", "bench_input", "estimate_cost"])
def test_python_scripts_start_as_documented(script):
    """Not as files, for `import dist_jax` and `import scripts` need the checkout's root on the path."""
    docs = (ROOT / "docs/launch.md").read_text()
    assert f"python -m scripts.{script}" in docs
    assert f"scripts/{script}.py" not in docs
    command = [sys.executable, "-m", f"scripts.{script}", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    options = re.findall(r"^  (--[a-z_-]+)", result.stdout, re.M)
    assert [option for option in options if "_" in option] == []


def test_documented_costs_are_what_the_script_prints():
    args: argparse.Namespace = estimate_cost._parser().parse_args([])
    assert "\n".join(estimate_cost.report(args)) in (ROOT / "docs/launch.md").read_text()
