"""Command line of main: an invalid command ends with one line, status 1 and no traceback."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import training_run

from dist_jax.data import records

# Name -> (flags added to those of a valid run, expected part of the message).
INVALID = {
    "unknown field": ("--config.bach_size=8", "no field 'bach_size'; the nearest is 'batch_size'"),
    "unknown nested field": ("--config.optimizer.learnin_rate=1", "the nearest is 'optimizer.learning_rate'"),
    "not a number": ("--config.batch_size=many", "batch_size"),
    "wrong value": ("--config.model.remat=some", "model.remat='some': must be one of 'elementwise', 'layers'"),
    "alpha": ("--config.model.alpha=3", "model.alpha=3: must divide model.num_frames"),
    "unknown flag": ("--wokdir=x", "wokdir"),
    "missing configuration file": ("--config=configs/none.py", "No such file or directory: 'configs/none.py'"),
    "stray argument": ("train", "unexpected arguments train"),
    "devices": ("--config.eval.batch_size=3", "eval.batch_size=3 is not divisible by 2 devices"),
    "mesh": ("--config.mesh.tensor=3", "do not fill 2 devices"),
    "no such weights": (
        "--config.backbone.weights=nothing/there/at-all",
        "nothing/there/at-all: no such file or directory",
    ),
    "block": ("--config.backbone.layers=(0,7)", "has blocks 0 to 2"),
    "no data": ("--config.data.train=", "data.train is empty"),
    "missing shards": ("--config.data.val={folder}/val@7", "of 7 shards are missing"),
    "no class names": ("--config.data.class_names_file={folder}/none.txt", "none.txt does not exist"),
    "empty set": ("--config.data.train={folder}/empty@1", "contains no records"),
    "truncated shard": ("--config.data.train={folder}/short@1", "is truncated"),
    "incomplete hosts": ("--coordinator=localhost:1234", "--coordinator needs --processes"),
    "no cluster": ("--distributed", "no TPU pod, Slurm or Kubernetes was found"),
    "no port": ("--coordinator=localhost --processes=2 --process=0", "localhost has no port"),
    "hosts without a coordinator": ("--processes=2 --process=0", "--processes and --process need --coordinator"),
    "results in a folder": ("--results=a/b", "--results=a/b: must be a file name without a folder"),
    "workdir is a file": ("--workdir={folder}/labels.txt", "labels.txt: cannot create this folder"),
    "warmup": ("--config.steps=1", "optimizer.warmup_epochs=1 is not less than the 0.8 epochs of this training"),
    "flipped class": (
        "--config.augment.hflip_label_pairs=3,5",
        "augment.hflip_label_pairs=(3, 5): there are 5 classes",
    ),
    "blocks that are not numbers": ("--config.backbone.layers=a,b", "backbone.layers=('a,b',): must be finite numbers"),
    "infinite epochs": ("--config.epochs=inf", "epochs=inf: must be a finite number"),
    "no workdir": ("--workdir ", "--workdir is missing"),
    "find_batch without a workdir": ("--workdir --find_batch --config.mesh.tensor=3", "do not fill 2 devices"),
    "find_batch without a network": (
        "--find_batch --config.model.network=none",
        "--find_batch compiles a training step",
    ),
    "find_batch and evaluate": ("--find_batch --evaluate", "--evaluate and --find_batch cannot be combined"),
    "find_batch and evaluate without a workdir": ("--workdir --find_batch --evaluate", "cannot be combined"),
    "profiled steps": ("--profile_steps=0,3", "profile_steps=(0, 3): must be empty or two steps FIRST,LAST"),
    "process number": ("--coordinator=localhost:1234 --processes=2 --process=2", "must be from 0 to 1"),
}


@pytest.fixture(scope="module")
def folder(training_data, tmp_path_factory):
    """The training data, with an empty and a truncated data set."""
    folder = tmp_path_factory.mktemp("invalid")
    shard = (training_data / "train-00000-of-00003").read_bytes()
    for split in ("train", "val"):
        for file in training_data.glob(f"{split}-*"):
            shutil.copy(file, folder)
    for name, content in (("empty", b""), ("short", shard[:-5])):
        Path(records.shard_path(str(folder / name), 0, 1)).write_bytes(content)
    shutil.copy(training_data / "labels.txt", folder)
    return folder


@pytest.fixture(scope="module")
def outcomes(training_data, folder, tmp_path_factory):
    """Name -> exit status and output, for every entry of INVALID."""
    lines = []
    for arguments, _ in INVALID.values():
        workdir = tmp_path_factory.mktemp("workdir")
        valid = training_run.flags(training_data, workdir)
        if arguments.startswith("--workdir "):  # means: no --workdir flag
            arguments, valid = arguments.removeprefix("--workdir"), valid[:1]
        lines.append([*valid, *arguments.format(folder=folder).split()])
    return dict(zip(INVALID, training_run.run_mains(lines, num_devices=2), strict=True))


EVALUATE_OUT_OF_MEMORY = """
import sys
from jax.errors import JaxRuntimeError
from dist_jax import main

def fail(*_):
    raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 GiB")

main.evaluate.evaluate = fail
main.exit_with_message(lambda: main.app.run(main.main, argv=sys.argv, flags_parser=main.parse_flags))
"""


@pytest.mark.slow
def test_an_evaluation_that_does_not_fit_into_memory_names_its_batch_size(training_data, tmp_path):
    command = [sys.executable, "-c", EVALUATE_OUT_OF_MEMORY, *training_run.flags(training_data, tmp_path), "--evaluate"]
    process = subprocess.run(
        command, env=training_run.environment(), cwd=training_run.ROOT, capture_output=True, text=True
    )
    assert process.returncode == 1
    error = process.stderr.splitlines()[-1]
    assert error.startswith("error: the evaluation does not fit into device memory: reduce eval.batch_size"), error


@pytest.mark.slow
@pytest.mark.xdist_group("main")  # one process runs the commands of the fixture
@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_command_is_refused_with_one_line(name, outcomes):
    status, output = outcomes[name]
    assert status == 1, output
    assert "Traceback" not in output
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert INVALID[name][1] in error
