"""Kills a training run at random moments, starts it again each time, and compares its end with an undisturbed run's.

    python -m scripts.soak --workdir=runs/soak --kills=10 -- --config=configs/demo.py --config.log.every_steps=1

Everything after -- goes to python -m dist_jax.main. Prints a table of the kills; exit status 1 if the two ends differ.
Choose a configuration of minutes with checkpoints every few seconds, so that kills meet saves.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import logging

from dist_jax.errors import UserError, exit_with_message
from dist_jax.training.logger import METRICS_FILE
from dist_jax.workdir.checkpoints import load_params

MEASURED = ("clips_per_second", "input_wait", "device_memory_peak")  # what two equal runs do not share


def main() -> int:
    """Runs what the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="new folder for both runs")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("training", nargs="+", help="after --: flags of dist_jax.main without --workdir")
    args = parser.parse_args()
    if args.workdir.exists():
        raise UserError(f"{args.workdir} exists; give a folder that does not")
    calm, disturbed = args.workdir / "undisturbed", args.workdir / "disturbed"
    finish(start(calm, args.training))
    logging.set_verbosity(logging.ERROR)  # Orbax's notes on reading
    rng = random.Random(args.seed)
    for number in range(args.kills):
        at = moment(rng, newest(disturbed), newest(calm), args.kills - number, while_starting=number % 5 == 4)
        print(f"{number + 1:3d}  {strike(disturbed, args.training, *at)}", flush=True)
    finish(start(disturbed, args.training))
    differences = compare(calm, disturbed)
    print("\n".join(differences) or "both runs end with the same parameters, bit for bit, and the same metrics")
    return 1 if differences else 0


def moment(rng: random.Random, reached: int, last: int, kills: int, while_starting: bool) -> tuple[int, float]:
    """Draws when to kill: a step to wait for (0, for every fifth kill: the start itself) and seconds after it."""
    if while_starting:
        return 0, rng.uniform(0, 10)
    furthest = reached + 2 * (last - reached) // (kills + 1)  # on average the kills are spread evenly
    return min(rng.randint(reached + 1, max(furthest, reached + 1)), last - 1), rng.expovariate(10)


def start(workdir: Path, training: list[str]) -> subprocess.Popen:
    """Starts or resumes training; what it says goes to WORKDIR.log."""
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with workdir.with_suffix(".log").open("ab") as log:
        command = [sys.executable, "-m", "dist_jax.main", f"--workdir={workdir}", *training]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def finish(run: subprocess.Popen) -> None:
    """Waits for a run's own end; UserError if that is none."""
    if run.wait() != 0:
        raise UserError(f"training ended with status {run.returncode}; see the .log files in --workdir")


def newest(workdir: Path) -> int:
    """Returns the step of the newest line of metrics, 0 if there is none."""
    return max((line["step"] for line in read_metrics(workdir)), default=0)


def strike(workdir: Path, training: list[str], step: int, seconds: float) -> str:
    """Starts or resumes training, kills it `seconds` after it has logged `step`, and says what was there."""
    metrics = workdir / METRICS_FILE
    before = metrics.stat().st_mtime_ns if metrics.exists() else 0
    run = start(workdir, training)
    while step and run.poll() is None:
        time.sleep(0.01)
        if metrics.exists() and metrics.stat().st_mtime_ns != before and newest(workdir) >= step:
            break
    try:
        run.wait(seconds)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGKILL)
    how = "killed" if run.wait() == -signal.SIGKILL else f"ended with {run.returncode}"
    saved = sorted(int(folder.name) for folder in (workdir / "checkpoints").glob("*") if folder.name.isdigit())
    unfinished = len(list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")))
    return (
        f"{how} {seconds:5.2f} s after {f'step {step}' if step else 'the start':10s}  metrics to step "
        f"{newest(workdir):5d}  checkpoints {' '.join(map(str, saved)) or '-'}  unfinished {unfinished}"
    )


def read_metrics(workdir: Path) -> list[dict]:
    """Reads the lines of metrics.jsonl, without what depends on time."""
    file = workdir / METRICS_FILE
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in lines]


def compare(calm: Path, disturbed: Path) -> list[str]:
    """Lists what differs between the ends of two runs, one line each."""
    (step, params), (other_step, other_params) = load_params(calm), load_params(disturbed)
    found = [] if step == other_step else [f"the undisturbed run ended at step {step}, the other at {other_step}"]
    same = jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), params, other_params)
    for path, equal in jax.tree_util.tree_flatten_with_path(same)[0]:
        if not equal:
            found.append(f"{jax.tree_util.keystr(path, simple=True, separator='/')} differs")
    pairs = zip(read_metrics(calm), read_metrics(disturbed), strict=False)
    found += [f"metrics differ: {mine} and {theirs}" for mine, theirs in pairs if mine != theirs][:3]
    if len(read_metrics(calm)) != len(read_metrics(disturbed)):
        found.append("one run has more lines of metrics than the other")
    return found


if __name__ == "__main__":
    exit_with_message(main)
