"""Training and evaluation: python -m dist_jax.main --config=configs/NAME.py --workdir=DIR [--evaluate]."""

import os
import sys
from collections.abc import Sequence

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from dist_jax import command_line, compilation_cache
from dist_jax import config as settings
from dist_jax.distributed import multihost
from dist_jax.distributed.mesh import make_mesh
from dist_jax.errors import UserError, exit_with_message
from dist_jax.evaluation import evaluate
from dist_jax.training import find_batch, memory, train

EXAMPLE = "--config=configs/demo.py --workdir=runs/demo"
CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration, e.g. configs/demo.py.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run: run metadata, checkpoints, metrics, results.")
EVALUATE = flags.DEFINE_bool("evaluate", False, "Evaluate the best checkpoint in --workdir instead of training.")
FIND_BATCH = flags.DEFINE_bool(
    "find_batch",
    False,
    "Print the largest batch_size (to within 1/16) that fits into device memory. Compiles only; needs no --workdir.",
)
PROFILE = flags.DEFINE_list(
    "profile_steps", [], "FIRST,LAST: record a profiler trace of these steps (same as --config.profile_steps)."
)
RESULTS = flags.DEFINE_string("results", "evaluate", "With --evaluate: base name of the files in WORKDIR/results.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Several hosts, detected: TPU pod, Slurm, Kubernetes.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "Several hosts, not detected: HOST:PORT of process 0.")
PROCESSES = flags.DEFINE_integer("processes", None, "With --coordinator: number of processes.")
PROCESS = flags.DEFINE_integer("process", None, "With --coordinator: number of this process, from 0.")


def main(argv: Sequence[str]) -> None:
    """Connects the hosts, then trains, evaluates or searches the batch size."""
    if len(argv) > 1:
        raise UserError(
            f"unexpected arguments {' '.join(argv[1:])}; a flag is --NAME=VALUE, e.g. --config=configs/demo.py"
        )
    config = read_config()
    silence_library_logs()
    if COORDINATOR.value or DISTRIBUTED.value:
        multihost.initialize(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    compilation_cache.enable(config.compilation_cache)
    with multihost.share_failures():
        mesh = make_mesh(config.mesh)
        if EVALUATE.value:
            with memory.raise_too_large(memory.EVALUATION_TOO_LARGE):
                evaluate.evaluate(config, WORKDIR.value, mesh, RESULTS.value)
        elif FIND_BATCH.value:
            find_batch.find_batch(config, mesh)
        else:
            train.train(config, WORKDIR.value, mesh)


def read_config() -> ml_collections.ConfigDict:
    """Reads and validates the flags and the configuration. Raises UserError if they are invalid."""
    if not all(step.isdecimal() for step in PROFILE.value):
        raise UserError(f"--profile_steps={','.join(PROFILE.value)}: must be two steps FIRST,LAST, e.g. 10,15")
    if not RESULTS.value or os.path.basename(RESULTS.value) != RESULTS.value:
        raise UserError(
            f"--results={RESULTS.value}: must be a file name without a folder; results go to WORKDIR/results"
        )
    if not (COORDINATOR.value or DISTRIBUTED.value) and (PROCESSES.value, PROCESS.value) != (None, None):
        raise UserError(
            "--processes and --process need --coordinator=HOST:PORT; detected hosts (--distributed) need neither"
        )
    if EVALUATE.value and FIND_BATCH.value:
        raise UserError(
            "--evaluate and --find_batch cannot be combined: --find_batch compiles a training step; use one"
        )
    config = command_line.read_config(flags.FLAGS, EXAMPLE)
    if WORKDIR.value is None and not FIND_BATCH.value:
        raise UserError(f"--workdir is missing; for example {EXAMPLE}")
    if PROFILE.value:
        config.profile_steps = tuple(int(step) for step in PROFILE.value)
        settings.validate(config)
    return config


def silence_library_logs() -> None:
    """Hides the log lines of libraries below errors, unless --verbosity is set."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)


def parse_flags(argv: list[str]) -> list[str]:
    """The flag parser for `app.run`: raises UserError for invalid flags."""
    return command_line.parse_flags(flags.FLAGS, argv)


if __name__ == "__main__":
    exit_with_message(lambda: app.run(main, argv=sys.argv, flags_parser=parse_flags))
