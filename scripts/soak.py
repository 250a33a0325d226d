"""Tests resuming: kills and restarts a training run at random times, then compares it with an uninterrupted run.

    python -m scripts.soak --workdir=runs/soak --kills=10 -- --config=configs/demo.py

All arguments after -- are flags of dist_jax.main. Prints a table of the kills. Exit status 1 if the two runs end
differently: in a parameter, in a line of metrics.jsonl (without the measured metrics, e.g. clips_per_second), or in the
number of lines. The save interval must not be a multiple of the log interval, so that runs also resume inside one.
Use a configuration that trains for minutes and saves every few seconds, so that some kills hit a save.
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
from dist_jax.files import user_path
from dist_jax.training.logger import MEASURED, METRICS_FILE
from dist_jax.workdir.checkpoints import load_params


def main() -> int:
    """Runs the test and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=user_path, required=True, help="folder of both runs; must not exist")
    parser.add_argument("--kills", type=int, default=10, help="number of kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kill times (default: %(default)s)")
    parser.add_argument("--log-every-steps", type=int, default=5, help="of both runs (default: %(default)s)")
    parser.add_argument("--save-every-steps", type=int, default=3, help="of both runs (default: %(default)s)")
    parser.add_argument("training", nargs="+", help="after --: flags of dist_jax.main, without --workdir")
    args = parser.parse_args()
    training = [*args.training, f"--config.log.every_steps={args.log_every_steps}"]
    training.append(f"--config.checkpoint.save_every_steps={args.save_every_steps}")
    if args.save_every_steps % args.log_every_steps == 0:
        raise UserError(
            f"--save-every-steps={args.save_every_steps} is a multiple of --log-every-steps="
            f"{args.log_every_steps}, so no run resumes inside a log interval; use another"
        )
    workdir = Path(args.workdir)
    if workdir.exists():
        raise UserError(f"{workdir} already exists: use another --workdir")
    reference, interrupted = workdir / "reference", workdir / "interrupted"
    finish(start(reference, training))
    logging.set_verbosity(logging.ERROR)  # hide Orbax's messages
    rng = random.Random(args.seed)
    for number in range(args.kills):
        kill_time = draw_kill_time(
            rng, last_step(interrupted), last_step(reference), args.kills - number, at_start=number % 5 == 4
        )
        print(f"{number + 1:3d}  {run_and_kill(interrupted, training, *kill_time)}", flush=True)
    finish(start(interrupted, training))
    differences = compare(reference, interrupted)
    print(
        "\n".join(differences)
        or f"both runs end with bitwise equal parameters and the same {len(read_metrics(reference))} metrics lines"
    )
    return 1 if differences else 0


def draw_kill_time(rng: random.Random, current: int, last: int, num_kills: int, at_start: bool) -> tuple[int, float]:
    """Step to wait for (0: the start of the process) and seconds from that step to the kill."""
    if at_start:
        return 0, rng.uniform(0, 10)
    latest = current + 2 * (last - current) // (num_kills + 1)  # spreads the kills evenly on average
    return min(rng.randint(current + 1, max(latest, current + 1)), last - 1), rng.expovariate(10)


def start(workdir: Path, training: list[str]) -> subprocess.Popen:
    """Starts or resumes training. Appends its output to WORKDIR.log."""
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with workdir.with_suffix(".log").open("ab") as log:
        command = [sys.executable, "-m", "dist_jax.main", f"--workdir={workdir}", *training]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def finish(run: subprocess.Popen) -> None:
    """Waits until the run ends. Raises UserError if its status is not 0."""
    if run.wait() != 0:
        raise UserError(f"training ended with status {run.returncode}: see the .log files in --workdir")


def last_step(workdir: Path) -> int:
    """Last step in metrics.jsonl; 0 if there is none."""
    return max((line["step"] for line in read_metrics(workdir)), default=0)


def run_and_kill(workdir: Path, training: list[str], step: int, seconds: float) -> str:
    """Starts or resumes training, kills it `seconds` after it logged `step`, and returns one line about its state."""
    metrics = workdir / METRICS_FILE
    before = metrics.stat().st_mtime_ns if metrics.exists() else 0
    run = start(workdir, training)
    while step and run.poll() is None:
        time.sleep(0.01)
        if metrics.exists() and metrics.stat().st_mtime_ns != before and last_step(workdir) >= step:
            break
    try:
        run.wait(seconds)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGKILL)
    outcome = "killed" if run.wait() == -signal.SIGKILL else f"ended with {run.returncode}"
    saved = sorted(int(folder.name) for folder in (workdir / "checkpoints").glob("*") if folder.name.isdigit())
    unfinished = len(list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")))
    return (
        f"{outcome} {seconds:5.2f} s after {f'step {step}' if step else 'the start':10s}  metrics up to step "
        f"{last_step(workdir):5d}  checkpoints {' '.join(map(str, saved)) or '-'}  unfinished {unfinished}"
    )


def read_metrics(workdir: Path) -> list[dict]:
    """Lines of metrics.jsonl without the measured metrics."""
    file = workdir / METRICS_FILE
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in lines]


def compare(reference: Path, interrupted: Path) -> list[str]:
    """Differences between the final states of two runs, one line each."""
    (step, params), (other_step, other_params) = load_params(reference), load_params(interrupted)
    differences = [] if step == other_step else [f"last step: {step} without kills, {other_step} with kills"]
    same = jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), params, other_params)
    for path, equal in jax.tree_util.tree_flatten_with_path(same)[0]:
        if not equal:
            differences.append(f"{jax.tree_util.keystr(path, simple=True, separator='/')} differs")
    pairs = zip(read_metrics(reference), read_metrics(interrupted), strict=False)
    differences += [f"metrics differ: {a} and {b}" for a, b in pairs if a != b][:3]
    if len(read_metrics(reference)) != len(read_metrics(interrupted)):
        differences.append("the number of lines in metrics.jsonl differs")
    return differences


if __name__ == "__main__":
    exit_with_message(main)
