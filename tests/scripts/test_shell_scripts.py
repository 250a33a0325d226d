"""All shell scripts: arguments, --help, shellcheck and bash 3."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.launchers import GKE, ROOT, SCRIPTS, SLURM, TPU, WORKER, dry_run, launch


def test_flags_after_the_separator_reach_main_unchanged():
    flags = ["--config.data.train=gs://b/it's $HOME", "--config.backbone.layers=(1, 3)", "; rm -rf /", "--dry-run"]
    rest = ["--", *flags]
    words = ["--config=configs/demo.py", "--workdir=gs://b/run", *flags]
    start = dry_run("tpu.sh", *TPU, rest=rest)[-2]
    remote = next(word for word in start if word.startswith("--command=")).removeprefix("--command=")
    assert shlex.split(remote) == [*shlex.split(WORKER), "start", *words]
    _, submitted, started, _ = dry_run("slurm.sh", *SLURM, rest=rest)
    assert submitted[-len(flags) :] == started[-len(flags) :] == flags
    workload = dry_run("gke.sh", *GKE, rest=rest)[-1]
    assert shlex.split(workload[-1])[-len(words) :] == words


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("tpu.sh", [], "unknown action '': use run, log, stop or delete (see --help)"),
        ("tpu.sh", ["begin"], "unknown action 'begin'"),
        ("tpu.sh", ["run", "--name", "demo"], "unknown argument '--name': write options as --name=value"),
        ("tpu.sh", ["log"], "--name is missing, e.g. --name=my-run (see --help)"),
        ("tpu.sh", ["log", "--name=Demo"], "--name='Demo' is invalid; example: --name=my-run"),
        ("tpu.sh", ["log", "--name=demo"], "--zone is missing"),
        ("tpu.sh", [*TPU, "--zone=us-east5"], "--zone='us-east5' is invalid"),
        ("tpu.sh", [*TPU, "--type=h100"], "--type='h100' is invalid; example: --type=v5litepod-64"),
        ("tpu.sh", [*TPU, "--type=v9-8"], "--type=v9-8: unknown TPU software version for this type: set --runtime"),
        (
            "tpu.sh",
            [*TPU, "--workdir=/tmp/run"],
            "--workdir='/tmp/run' is invalid; example: --workdir=gs://",
        ),
        ("tpu.sh", [*TPU, "--config=configs/dem.py"], "--config=configs/dem.py: no such file in"),
        ("tpu.sh", [*TPU, "--spot", "--reserved"], "--spot and --reserved exclude each other: use one"),
        ("tpu.sh", [*TPU, "--restarts=many"], "--restarts='many' is invalid"),
        ("tpu_worker.sh", ["restart"], "unknown action 'restart': use install, start, follow or stop (see --help)"),
        ("slurm.sh", ["--nodes=0"], "--nodes='0' is invalid; example: --nodes=2"),
        ("slurm.sh", [*SLURM, "--workdir=run"], "--workdir='run' is invalid; example: --workdir=/shared"),
        ("slurm.sh", [*SLURM, r"--workdir=/shared/a\b"], r"--workdir='/shared/a\b' is invalid"),
        ("slurm.sh", [*SLURM, "--time=soon"], "--time='soon' is invalid"),
        *(
            ("slurm.sh", [*SLURM, f"--time={limit}"], f"--time={limit} is too short: the job stops 2 minutes before it")
            for limit in ("0", "2", "2:59", "00:02:59", "0-0", "0-0:02")
        ),
        ("slurm.sh", [*SLURM, "--partition="], "--partition= has no value"),
        ("slurm.sh", [*SLURM, "--config=configs/dem.py:large"], "--config=configs/dem.py:large: no such file in"),
        ("slurm.sh", ["run"], "unknown argument 'run'"),
        ("gke.sh", TPU, "--cluster is missing, e.g. --cluster=my-cluster (see --help)"),
        ("gke.sh", [*GKE, "--image=a b"], "--image='a b' is invalid"),
    ],
)
def test_invalid_arguments_fail_with_one_line_before_any_command(script, arguments, message):
    result = launch(script, *arguments, PATH="/usr/bin:/bin")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("script", ["tpu.sh", "slurm.sh", "gke.sh", "tpu_worker.sh"])
def test_help_lists_every_option(script):
    result = launch(script, "--help")
    options = set(re.findall(r"(?:^ +|\| )(--[a-z-]+)(?:=\*)?(?=\)| \|)", (SCRIPTS / script).read_text(), re.M))
    assert result.returncode == 0
    assert "usage: " in result.stdout
    assert {option for option in options - {"--help", "--"} if option not in result.stdout} == set()


def test_shellcheck_finds_nothing():
    of_environment = Path(sys.executable).parent / "shellcheck"
    shellcheck = of_environment if of_environment.exists() else shutil.which("shellcheck")
    assert shellcheck, "shellcheck is missing: pip install -r requirements-dev.txt"
    folders = (ROOT / "scripts", ROOT / "tests")
    scripts = sorted(str(path.relative_to(ROOT)) for folder in folders for path in folder.rglob("*.sh"))
    command = [shellcheck, "--shell=bash", "--external-sources", *scripts]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")


BASH_4 = {  # syntax that bash 3.2 of macOS does not have
    r"\b(mapfile|readarray|coproc|inherit_errexit|globstar|BASHPID|EPOCHSECONDS)\b": "words",
    r"\b(declare|local|typeset|readonly) -[a-zA-Z]*[Agnlu]": "associative arrays, references, letter cases",
    r"\$\{\w+(\[[^]]*\])?(,,?|\^\^?|@[A-Za-z])[^}]*\}": "letter cases, transformations",
    r"\[\[ !? ?-[vR] ": "tests of variables",
    r"\[-\d+\]|\$\{\w+:[^}]*: -\d": "indices from the end",
    r"\|&|&>>|;;&|;&": "redirections, cases",
    r"\bwait -n\b|%\(": "wait for any process, printf times",
}


@pytest.mark.parametrize(
    "script",
    [
        "environment.sh",
        "quickstart.sh",
        "rehearsal.sh",
        "stages.sh",
        "test.sh",
        *(f"launch/{name}.sh" for name in ("common", "tpu", "gke", "slurm")),
    ],
)
def test_scripts_for_the_users_machine_use_bash_3_syntax(script):
    lines = (ROOT / "scripts" / script).read_text().splitlines()
    code = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    for pattern, feature in BASH_4.items():
        assert re.findall(pattern, code) == [], feature
    # In bash 3, an empty array is an unset variable: an error with `set -u`.
    for name in re.findall(r"\b(\w+)=\((?:\)|\$\{\w+:\+)", code):
        bare = re.sub(rf'\$\{{{name}\[@\]\+"\$\{{{name}\[@\]\}}"\}}', "", code)
        assert f"${{{name}[@]}}" not in bare, name
