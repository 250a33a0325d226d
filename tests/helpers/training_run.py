"""A complete training run that takes seconds: records, a CLIP directory, a configuration, and functions to run it.

This file is also the configuration file of the run: --config=tests/helpers/training_run.py:FOLDER, where FOLDER is the
output of `make_data`.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest

from dist_jax import config as settings
from dist_jax.distributed import preemption
from dist_jax.distributed.mesh import AXES, make_mesh
from dist_jax.training import train
from dist_jax.training.logger import MEASURED
from dist_jax.workdir import checkpoints

ROOT = Path(__file__).parents[2]
NUM_TRAIN, NUM_VAL = 20, 11  # records; not multiples of the batch sizes or of the number of shards
NUM_STEPS = 10  # 8 epochs
SINGLE_DEVICE, DATA_PARALLEL, ALL_AXES = (1, 1, 1), (8, 1, 1), (2, 2, 2)  # mesh shapes: data, fsdp, tensor
CLASS_NAMES = ("push", "pull", "lift", "turn", "fold")


def get_config(folder: str) -> ml_collections.ConfigDict:
    """Batch size 16. Checkpoints and evaluations are at different steps, and every step is logged."""
    config = settings.defaults()
    config.batch_size = 16
    config.steps = NUM_STEPS
    config.backbone.weights = f"{folder}/clip"
    config.model.num_frames = 4
    config.model.integration_width = 64
    config.model.temporal_width = 8
    config.model.num_pooling_layers = 1
    config.data.train = f"{folder}/train@3"
    config.data.val = f"{folder}/val@2"
    config.data.num_threads = 2
    config.augment.color_jitter = 0.2
    config.mix.group_size = 4
    config.optimizer.learning_rate = 1e-2
    config.optimizer.warmup_epochs = 1.0
    config.eval.every_epochs = 4.0
    config.eval.batch_size = 8
    config.eval.num_views = 2
    config.checkpoint.save_every_steps = 3
    config.log.every_steps = 1
    config.compilation_cache = f"{folder}/compiled"
    return config


def make_data(folder: Path) -> Path:
    """Writes the records, the class names and the CLIP directory that `get_config` names."""
    from helpers import small_records  # a local import: a process that only reads the configuration does not need it

    examples = [small_records.example(number) for number in range(NUM_TRAIN + NUM_VAL)]
    small_records.write_shards(folder, examples[:NUM_TRAIN], 3, "train")
    small_records.write_shards(folder, examples[NUM_TRAIN:], 2, "val")
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in CLASS_NAMES))
    save_clip(folder / "clip")
    return folder


def save_clip(folder: Path, seed: int = 0) -> str:
    """Writes a Hugging Face CLIP directory with random parameters and a tokenizer."""
    from dist_jax.weights.clip import save_huggingface
    from helpers import small_models

    save_huggingface(small_models.clip_model(seed), folder)
    return small_models.write_tokenizer(folder)


def flags(data: Path, workdir: Path) -> list[str]:
    """Flags of dist_jax.main for a run on the data in folder `data`."""
    return [f"--config={ROOT}/tests/helpers/training_run.py:{data}", f"--workdir={workdir}"]


def environment(num_devices: int = 1) -> dict[str, str]:
    """Environment variables of a process with `num_devices` simulated devices and fast compilation."""
    from helpers.compile_flags import FAST_COMPILE

    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    xla = f"{FAST_COMPILE} --xla_force_host_platform_device_count={num_devices}"
    return {**os.environ, "PYTHONPATH": path, "XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}


def run_mains(
    command_lines: list[list[str]], num_devices: int = 1, module: str = "dist_jax.main"
) -> list[tuple[int, str]]:
    """Runs `python -m MODULE` with each list of flags. Returns the exit statuses and outputs."""
    process = subprocess.run(
        [sys.executable, ROOT / "tests" / "helpers" / "many_mains.py", module],
        input="".join(json.dumps(line) + "\n" for line in command_lines),
        env=environment(num_devices),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    results = [json.loads(line) for line in process.stdout.splitlines()]
    return [(result["status"], result["output"]) for result in results]


class Hosts:
    """Starts `python -m dist_jax.main` on several simulated hosts, one process each."""

    def __init__(
        self, num_hosts: int, num_devices: int, log: Path, flags: list[str], last_host_flags: tuple[str, ...] = ()
    ) -> None:
        """Starts `num_hosts` processes with `num_devices` devices each.

        The output of process i is written to LOG-i.log. Only the last process has `last_host_flags`.
        """
        with socket.socket() as free_socket:
            free_socket.bind(("localhost", 0))
            port = free_socket.getsockname()[1]
        self.logs = [log.with_name(f"{log.name}-{index}.log") for index in range(num_hosts)]
        self.processes = []
        for index, log_file in enumerate(self.logs):
            host_flags = [f"--coordinator=localhost:{port}", f"--processes={num_hosts}", f"--process={index}"]
            if index == num_hosts - 1:
                host_flags += last_host_flags
            command = [sys.executable, "-m", "dist_jax.main", *flags, *host_flags]
            with log_file.open("wb") as output:
                process = subprocess.Popen(
                    command, env=environment(num_devices), cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
                )
            self.processes.append(process)

    def wait(self) -> list[int]:
        """Waits for all processes. Returns their exit statuses."""
        return [process.wait() for process in self.processes]

    def output(self, index: int) -> str:
        """Standard output and error of process `index`."""
        return self.logs[index].read_text()

    def running(self) -> bool:
        """Whether all processes are running."""
        return all(process.poll() is None for process in self.processes)


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl; empty if the file does not exist."""
    file = workdir / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def read_losses(workdir: Path) -> dict[int, float]:
    """Step -> loss. Asserts that every step is logged exactly once."""
    lines = [line for line in read_metrics(workdir) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return {line["step"]: line["loss"] for line in lines}


def wait_for_step(workdir: Path, step: int, is_running: Callable[[], bool]) -> None:
    """Returns when the run in `workdir` has logged `step`, or when `is_running()` is False."""
    while is_running() and max((line["step"] for line in read_metrics(workdir)), default=0) < step:
        time.sleep(0.02)


def make_config(
    data: Path, mesh_shape: tuple[int, int, int] = DATA_PARALLEL, **changes: object
) -> ml_collections.ConfigDict:
    """The configuration with a mesh shape and changed settings; `optimizer__eps` means optimizer.eps."""
    config = get_config(str(data))
    config.mesh.update(dict(zip(AXES, mesh_shape, strict=True)))
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


def run(
    data: Path, workdir: Path, mesh_shape: tuple[int, int, int] = DATA_PARALLEL, **changes: object
) -> dict[str, float]:
    """Trains in this process. Returns the last evaluation. For the arguments see `make_config`."""
    config = make_config(data, mesh_shape, **changes)
    mesh = make_mesh(config.mesh, jax.devices()[: np.prod(mesh_shape)])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return train.train(config, str(workdir), mesh)


def reproducible_metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without the measured metrics."""
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in read_metrics(workdir)]


@contextlib.contextmanager
def preemption_at(call: int) -> Iterator[None]:
    """Sends the preemption notice at the given call of `PreemptionNotice.poll`, counted from 1."""

    class PreemptionNotice(preemption.PreemptionNotice):
        def __init__(self):
            super().__init__()
            self.num_requests = 0

        def poll(self):
            self.num_requests += 1
            self.received = self.received or self.num_requests == call
            return self.received

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preemption, "PreemptionNotice", PreemptionNotice)
        yield


def newest_checkpoint(workdir: Path) -> tuple[int, dict]:
    """Step and parameters of the newest checkpoint."""
    return checkpoints.load_params(workdir)


@pytest.fixture(scope="session")
def training_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of `make_data`. Enables JAX's compilation cache: the runs of a session compile each program once."""
    folder = make_data(tmp_path_factory.mktemp("training_data"))
    cache_settings = {
        "jax_compilation_cache_dir": str(folder / "compiled-by-tests"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    previous_settings = {name: getattr(jax.config, name) for name in cache_settings}
    for name, value in cache_settings.items():
        jax.config.update(name, value)
    yield folder
    for name, value in previous_settings.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def finished_run(training_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Workdir of a run on eight devices without interruption, and the frozen parameters at its end."""
    workdir = tmp_path_factory.mktemp("finished_run")
    experiments, build = [], train.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "build", lambda *arguments: experiments.append(build(*arguments)) or experiments[-1])
        run(training_data, workdir)
    return workdir, experiments[0].frozen


@pytest.fixture(scope="session")
def preempted_run(training_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Workdir of the same run, stopped by a SIGTERM in step 4, and this step."""
    workdir = tmp_path_factory.mktemp("preempted_run")
    log_step = train.TrainLogger.step

    def log_step_and_stop(logger: train.TrainLogger, step: int, *arguments: object) -> None:
        log_step(logger, step, *arguments)
        if step == 4:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(train.Preempted) as preempted, pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.TrainLogger, "step", log_step_and_stop)
        run(training_data, workdir)
    assert preempted.value.code == 75
    assert newest_checkpoint(workdir)[0] == 4
    return workdir, 4
