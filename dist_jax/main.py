"""python -m dist_jax.main --config=configs/NAME.py --workdir=DIR: trains, or with --evaluate evaluates."""

import os
import sys
from collections.abc import Sequence

import jax
import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from dist_jax import config as settings
from dist_jax import evaluate, hosts, sharding, train
from dist_jax.errors import UserError, exit_with_message

CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration, e.g. configs/demo.py.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run: checkpoints, metrics, results.")
EVALUATE = flags.DEFINE_bool("evaluate", False, "Evaluate the best checkpoint in --workdir instead of training.")
FIND_BATCH = flags.DEFINE_bool(
    "find_batch", False, "Print the largest batch that fits a device's memory, by compiling."
)
PROFILE = flags.DEFINE_list(
    "profile_steps", [], "FIRST,LAST: a profiler trace of these steps, as in the configuration."
)
RESULTS = flags.DEFINE_string("results", "evaluate", "With --evaluate: name of the files in WORKDIR/results.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Several hosts, found by themselves: TPU pod, Slurm, Kubernetes.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "Several hosts, by hand: HOST:PORT of process 0.")
PROCESSES = flags.DEFINE_integer("processes", None, "With --coordinator: how many processes.")
PROCESS = flags.DEFINE_integer("process", None, "With --coordinator: number of this process, from 0.")


def main(argv: Sequence[str]) -> None:
    """Starts the hosts, then trains or evaluates."""
    if len(argv) > 1:
        raise UserError(f"unexpected arguments {' '.join(argv[1:])}; flags look like --config=configs/demo.py")
    config = read_config()
    if WORKDIR.value is None:
        raise UserError("--workdir is missing; for example --config=configs/demo.py --workdir=runs/demo")
    quieten()
    if COORDINATOR.value or DISTRIBUTED.value:
        hosts.join(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    use_compilation_cache(config.compilation_cache)
    with hosts.failing_together():
        mesh = sharding.make_mesh(config.mesh)
        if EVALUATE.value:
            evaluate.evaluate(config, WORKDIR.value, mesh, RESULTS.value)
        elif FIND_BATCH.value:
            train.find_batch(config, mesh)
        else:
            train.train(config, WORKDIR.value, mesh)


def read_config() -> ml_collections.ConfigDict:
    """The configuration of --config with its overrides, validated."""
    config = CONFIG.value
    if config is None:
        raise UserError("--config is missing; for example --config=configs/demo.py --workdir=runs/demo")
    if not all(step.isdecimal() for step in PROFILE.value):
        raise UserError(f"--profile_steps={','.join(PROFILE.value)}: must be two steps FIRST,LAST, e.g. 10,15")
    try:
        if PROFILE.value:
            config.profile_steps = tuple(int(step) for step in PROFILE.value)
        settings.validate(config)
    except OSError as error:  # a file that could not be loaded says so when it is first looked at
        raise UserError(f"--config: {_one_line(error)}") from error
    return config


def quieten() -> None:
    """Leaves the terminal to what this program says itself, unless --verbosity asks for the libraries' notes."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)


def use_compilation_cache(folder: str) -> None:
    """Keeps compiled programs in `folder` ("auto": the user's cache directory; "": nowhere)."""
    if folder == "auto":
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        folder = os.path.join(cache, "dist_jax", "compiled")
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parsing, with mistakes told in one line and the nearest field of the configuration."""
    settings.check_overrides(argv)
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(_one_line(error)) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"configuration: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


if __name__ == "__main__":
    exit_with_message(lambda: app.run(main, argv=sys.argv, flags_parser=parse_flags))
