"""A whole training run that takes seconds: records, a CLIP directory and a configuration; in this process or in others.

As a configuration file it takes the folder of `make_data`: --config=tests/helpers/training_run.py:FOLDER
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest

from dist_jax import config as settings
from dist_jax.distributed.mesh import AXES, make_mesh
from dist_jax.training import train
from dist_jax.workdir import checkpoints

ROOT = Path(__file__).parents[2]
TRAIN, VAL = 20, 11  # records: neither is a multiple of anything else here
STEPS = 10  # of batch_size clips: eight passes over the training records
EIGHT, ONE, CUBE = (8, 1, 1), (1, 1, 1), (2, 2, 2)  # meshes: data, fsdp, tensor
LABELS = ("push", "pull", "lift", "turn", "fold")  # words of the tiny tokenizer


def get_config(folder: str) -> ml_collections.ConfigDict:
    """Sixteen clips a batch, checkpoints and evaluations at different steps, all numbers logged."""
    config = settings.defaults()
    config.batch_size = 16
    config.steps = STEPS
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
    """Records, labels and a CLIP with a tokenizer, as `get_config` names them."""
    from helpers import small_records  # here, because a process that only reads the configuration needs none of it

    examples = [small_records.example(number) for number in range(TRAIN + VAL)]
    small_records.write_shards(folder, examples[:TRAIN], 3, "train")
    small_records.write_shards(folder, examples[TRAIN:], 2, "val")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    save_clip(folder / "clip")
    return folder


def save_clip(folder: Path, seed: int = 0) -> str:
    """A CLIP directory as Hugging Face lays it out, of random parameters."""
    from dist_jax.weights.clip import save_huggingface
    from helpers import small_models

    save_huggingface(small_models.clip_model(seed), folder)
    return small_models.write_tokenizer(folder)


def flags(data: Path, workdir: Path, *more: str) -> list[str]:
    """Of dist_jax.main."""
    return [f"--config={ROOT}/tests/helpers/training_run.py:{data}", f"--workdir={workdir}", *more]


def environment(devices: int = 1) -> dict[str, str]:
    """For processes with so many simulated devices, which compile as fast as the tests do."""
    from helpers.compile_flags import FAST_COMPILE

    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    xla = f"{FAST_COMPILE} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "PYTHONPATH": path, "XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}


def main_in_turn(command_lines: list[list[str]], devices: int = 1) -> list[tuple[int, str]]:
    """Exit status and output of dist_jax.main for each list of flags."""
    run = subprocess.run(
        [sys.executable, ROOT / "tests" / "helpers" / "many_mains.py"],
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


def configured(data: Path, shape: tuple[int, int, int] = EIGHT, **changes: object) -> ml_collections.ConfigDict:
    """The configuration on a mesh; `optimizer__eps` changes optimizer.eps."""
    config = get_config(str(data))
    config.mesh.update(dict(zip(AXES, shape, strict=True)))
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


def run(data: Path, workdir: Path, shape: tuple[int, int, int] = EIGHT, **changes: object) -> dict[str, float]:
    """Trains in this process, compiling what no run on this mesh has compiled; returns the last evaluation."""
    config = configured(data, shape, **changes)
    mesh = make_mesh(config.mesh, jax.devices()[: np.prod(shape)])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return train.train(config, str(workdir), mesh)


def newest(workdir: Path) -> tuple[int, dict]:
    """Step and parameters of the newest checkpoint."""
    return checkpoints.load_params(workdir)


@pytest.fixture(scope="session")
def training_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of `make_data`; while it is there, no program is compiled twice."""
    folder = make_data(tmp_path_factory.mktemp("training_data"))
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (str(folder / "compiled-by-tests"), 0.0), strict=True):
        jax.config.update(name, value)
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def undisturbed(training_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The workdir of a run from beginning to end on eight devices, and the frozen parameters after it."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    used, build = [], train.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "build", lambda *arguments: used.append(build(*arguments)) or used[-1])
        run(training_data, workdir)
    return workdir, used[0].frozen


@pytest.fixture(scope="session")
def stopped(training_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The workdir of such a run that a SIGTERM stopped on the way, and the step where it did."""
    workdir = tmp_path_factory.mktemp("stopped")

    def stop() -> None:
        wait_for_step(workdir, 4, running=lambda: True)
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(train.Preempted) as left:
        run(training_data, workdir)
    assert left.value.code == 75
    step, _ = newest(workdir)
    assert 4 <= step < STEPS
    return workdir, step
