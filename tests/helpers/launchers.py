"""Runs the launcher scripts and reads the commands that their dry runs print."""

import os
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts/launch"
TPU = ["run", "--name=demo", "--zone=us-east5-b", "--type=v6e-16", "--config=configs/demo.py", "--workdir=gs://b/run"]
GKE = [*TPU, "--cluster=pool"]
SLURM = ["--nodes=2", "--gpus=8", "--cpus=96", "--config=configs/demo.py", "--workdir=/shared/run"]
WORKER = "bash dist_jax/scripts/launch/tpu_worker.sh"


def launch(script, *arguments, cwd=ROOT, **environment):
    """Runs a script of scripts/launch, or one given by its path."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/home/me", **environment}
    command = ["bash", SCRIPTS / script, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def dry_run(script, *options, rest=()):
    """The commands that a dry run prints, as lists of words, without comments."""
    result = launch(script, *options, "--dry-run", *rest)
    assert (result.returncode, result.stderr) == (0, "")
    return [shlex.split(line) for line in result.stdout.splitlines() if not line.startswith("#")]


def write_command(folder, name, script):
    """Writes an executable bash script."""
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)
