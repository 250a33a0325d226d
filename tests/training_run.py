"""A whole training run that takes seconds: records, a CLIP directory and a configuration; in this process or in others.

As a configuration file it takes the folder of `make_data`: --config=tests/training_run.py:FOLDER
"""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import ml_collections
import numpy as np

from dist_jax import config as settings

ROOT = Path(__file__).parents[1]
TRAIN, VAL = 20, 11  # records: neither is a multiple of anything else here
STEPS = 10  # of batch_size clips: eight passes over the training records
LABELS = ("push", "pull", "lift", "turn", "fold")  # words of the tiny tokenizer


def get_config(folder: str) -> ml_collections.ConfigDict:
    """Sixteen clips a batch, checkpoints and evaluations at different steps, all numbers logged."""
    config = settings.defaults()
    config.batch_size = 16
    config.steps = STEPS
    config.clip.weights = f"{folder}/clip"
    config.model.frames = 4
    config.model.integration_width = 64
    config.model.temporal_width = 8
    config.model.pooling_layers = 1
    config.data.train = f"{folder}/train@3"
    config.data.val = f"{folder}/val@2"
    config.data.threads = 2
    config.augment.color_jitter = 0.2
    config.mix.group = 4
    config.optimizer.learning_rate = 1e-2
    config.optimizer.warmup_epochs = 1.0
    config.eval.every_epochs = 4.0
    config.eval.batch_size = 8
    config.eval.views = 2
    config.checkpoint.every_steps = 3
    config.log.every_steps = 1
    config.compilation_cache = f"{folder}/compiled"
    return config


def make_data(folder: Path) -> Path:
    """Records, labels and a CLIP with a tokenizer, as `get_config` names them."""
    import small_records  # here, because a process that only reads the configuration needs none of it

    examples = [small_records.example(number) for number in range(TRAIN + VAL)]
    small_records.write_shards(folder, examples[:TRAIN], 3, "train")
    small_records.write_shards(folder, examples[TRAIN:], 2, "val")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    save_clip(folder / "clip")
    return folder


def save_clip(folder: Path, seed: int = 0, logit_scale: float | None = None) -> str:
    """A CLIP directory as Hugging Face lays it out, of random parameters."""
    import small_models

    from dist_jax.weights.clip import save_huggingface

    clip = small_models.clip(seed)
    if logit_scale is not None:
        clip = dataclasses.replace(clip, params={**clip.params, "logit_scale": np.float32(logit_scale)})
    save_huggingface(clip, folder)
    return small_models.write_tokenizer(folder)


def flags(data: Path, workdir: Path, *more: str) -> list[str]:
    """Of dist_jax.main."""
    return [f"--config={ROOT}/tests/training_run.py:{data}", f"--workdir={workdir}", *more]


def environment(devices: int = 1) -> dict[str, str]:
    """For processes with so many simulated devices, which compile as fast as the tests do."""
    from conftest import FAST_COMPILE

    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    xla = f"{FAST_COMPILE} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "PYTHONPATH": path, "XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}


def main_in_turn(command_lines: list[list[str]], devices: int = 1) -> list[tuple[int, str]]:
    """Exit status and output of dist_jax.main for each list of flags."""
    run = subprocess.run(
        [sys.executable, ROOT / "tests" / "many_mains.py"],
        input="".join(json.dumps(line) + "\n" for line in command_lines),
        env=environment(devices),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = [json.loads(line) for line in run.stdout.splitlines()]
    return [(one["status"], one["output"]) for one in found]


class Hosts:
    """`python -m dist_jax.main` in several processes that form one system, each with its own simulated devices."""

    def __init__(
        self, count: int, devices: int, log: Path, arguments: list[str], of_last: tuple[str, ...] = ()
    ) -> None:
        """Starts them; `of_last` are further flags of the last process, `log` the beginning of the logs' names."""
        with socket.socket() as found:
            found.bind(("localhost", 0))
            port = found.getsockname()[1]
        self.logs = [log.with_name(f"{log.name}-{number}.log") for number in range(count)]
        self.processes = []
        for number, file in enumerate(self.logs):
            of_hosts = [f"--coordinator=localhost:{port}", f"--processes={count}", f"--process={number}"]
            extra = of_last if number == count - 1 else ()
            command = [sys.executable, "-m", "dist_jax.main", *arguments, *of_hosts, *extra]
            with file.open("wb") as output:
                process = subprocess.Popen(
                    command, env=environment(devices), cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
                )
            self.processes.append(process)

    def wait(self) -> list[int]:
        """Their exit statuses."""
        return [process.wait() for process in self.processes]

    def output(self, number: int) -> str:
        """What a process said."""
        return self.logs[number].read_text()

    def running(self) -> bool:
        """Whether all still run."""
        return all(process.poll() is None for process in self.processes)


def metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl."""
    file = workdir / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def losses(workdir: Path) -> dict[int, float]:
    """Loss of each step; an assertion fails if a step is missing or doubled."""
    lines = [line for line in metrics(workdir) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return {line["step"]: line["loss"] for line in lines}


def wait_for_step(workdir: Path, step: int, running: object) -> None:
    """Returns when the run in `workdir` has logged `step`, or when `running()` is no longer so."""
    while running() and max((line["step"] for line in metrics(workdir)), default=0) < step:
        time.sleep(0.02)
