"""Plans a training run on a TPU slice before it is rented. Needs no TPU, no weights and no data.

    pip install "jax[tpu]>=0.10.2,<0.11"       # contains the TPU compiler
    python -m dist_jax.plan --config=configs/k710_vitl.py --topology=v5e-64 [--config.batch_size=512] [--price=1.20]
    python -m dist_jax.plan --config=configs/k400_vitb.py --topology=v5e-8 --config.batch_size=64 \\
        --backbones=openai/clip-vit-base-patch16,google/siglip2-base-patch16-224,timm/PE-Core-B-16

The second command prints a table with one row per backbone.

Compiles the training step with the TPU compiler. Memory and collectives are exact. Times are estimates of the compiler,
not measurements.
"""

import math
import sys
from collections.abc import Callable, Sequence

import jax
import ml_collections
from absl import app, flags
from ml_collections import config_flags

from dist_jax import command_line
from dist_jax.cost import abstract, backbone_table, datasets, remedies, run_estimate, slice_cost, topology
from dist_jax.cost.chips import TpuSlice, parse_slice
from dist_jax.cost.programs import Cost
from dist_jax.cost.run_estimate import RunEstimate
from dist_jax.distributed import sharding
from dist_jax.distributed.mesh import make_mesh
from dist_jax.errors import UserError, exit_with_message
from dist_jax.model_setup import ModelSetup
from dist_jax.training import batch_search
from dist_jax.training.memory import StepMemory, TooLarge
from dist_jax.training.step_plan import StepPlan

EXAMPLE = "--config=configs/k710_vitl.py --topology=v5e-64"
CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration, e.g. configs/k710_vitl.py.", lock_config=True)
TOPOLOGY = flags.DEFINE_string("topology", None, "TPU slice by its name for rent (v5e-64) or by libtpu's (v5e:8x8).")
PRICE = flags.DEFINE_float("price", None, "USD per chip-hour. Without it, the plan gives chip-hours.")
TRAIN_VIDEOS = flags.DEFINE_integer(
    "train_videos", None, "Number of training videos. Default: that of the public data set in config.data.train."
)
VAL_VIDEOS = flags.DEFINE_integer("val_videos", None, "Number of validation videos. Default: as for --train_videos.")
LARGEST_BATCH = flags.DEFINE_bool("largest_batch", True, "Search the largest batch_size. Compiles several times.")
BACKBONES = flags.DEFINE_list("backbones", None, "Values of config.backbone.weights: print one row for each instead.")


def main(argv: Sequence[str]) -> None:
    """Prints the plan, or the table of backbones."""
    if len(argv) > 1:
        raise UserError(f"unexpected arguments {' '.join(argv[1:])}; a flag is --NAME=VALUE, e.g. {EXAMPLE}")
    config = command_line.read_config(flags.FLAGS, EXAMPLE)
    tpu_slice = read_flags()
    jax.config.update("jax_platforms", "cpu")  # the accelerators of this machine are not used
    devices = topology.devices(tpu_slice)
    if BACKBONES.value is not None:
        setups = backbone_table.setups(config, BACKBONES.value, make_mesh(config.mesh, devices))
        print_backbones(setups, tpu_slice)
    else:
        print_plan(config, tpu_slice, devices)


def print_backbones(setups: Sequence[ModelSetup], tpu_slice: TpuSlice) -> None:
    """Prints one row for each setup, when it is compiled."""
    print(f"{conditions(setups[0], tpu_slice)}\ncompiling a training step for every row (minutes)\n", flush=True)
    for line in backbone_table.lines(setups, tpu_slice):
        print(line, flush=True)


def print_plan(config: ml_collections.ConfigDict, tpu_slice: TpuSlice, devices: Sequence[jax.Device]) -> None:
    """Prints memory, collectives and time of a training step, and the cost of the run."""

    def setup_of(config: ml_collections.ConfigDict) -> ModelSetup:
        return abstract.setup(config, make_mesh(config.mesh, devices))

    setup = setup_of(config)
    sharding.check_batch(setup.mesh, "eval.batch_size", config.eval.batch_size)
    train_videos, val_videos = num_videos(config)
    if train_videos:
        StepPlan(config, train_videos)  # an impossible schedule is an error now, not after minutes of compilation
    print(f"{title(setup, tpu_slice)}\ncompiling the training step (minutes) ...", flush=True)
    try:
        cost = slice_cost.step_cost(setup, tpu_slice)
    except TooLarge as error:
        raise UserError(f"{error}; {advice(config, setup_of, tpu_slice)}") from error
    estimate = RunEstimate(setup.config, tpu_slice, cost.cycles)
    print("\n".join(step_lines(cost, estimate) + run_lines(estimate, train_videos, val_videos)), flush=True)
    if LARGEST_BATCH.value:
        print("searching the largest batch_size; every size is compiled", flush=True)
        batch_search.search(setup, tpu_slice.chip.memory)


def read_flags() -> TpuSlice:
    """Validates the flags and returns the slice. Raises UserError."""
    if not TOPOLOGY.value:
        raise UserError(f"--topology is missing; for example {EXAMPLE}")
    if PRICE.value is not None and not 0 <= PRICE.value < math.inf:
        raise UserError(f"--price={PRICE.value:g}: must be USD per chip-hour, at least 0")
    for flag in (TRAIN_VIDEOS, VAL_VIDEOS):
        if flag.value is not None and flag.value < 1:
            raise UserError(f"--{flag.name}={flag.value}: must be at least 1")
    if BACKBONES.value is not None:
        for unused in (PRICE, TRAIN_VIDEOS, VAL_VIDEOS, LARGEST_BATCH):
            if unused.present:
                raise UserError(f"--{unused.name} has no effect with --backbones; remove one of them")
    return parse_slice(TOPOLOGY.value)


def title(setup: ModelSetup, tpu_slice: TpuSlice) -> str:
    """What is planned."""
    return f"{setup.config.backbone.weights}, {conditions(setup, tpu_slice)}"


def conditions(setup: ModelSetup, tpu_slice: TpuSlice) -> str:
    """What is planned, without the name of the backbone."""
    config, mesh = setup.config, " x ".join(f"{name} {size}" for name, size in setup.mesh.shape.items())
    per_chip = config.batch_size / sharding.num_batch_shards(setup.mesh)
    dist, quantize = setup.model.dist, config.backbone.quantize
    return (
        f"{f'{quantize} backbone, ' if quantize else ''}{dist.num_sparse_frames}+{dist.num_frames} frames, "
        f"batch_size={config.batch_size} ({per_chip:g} clips per chip and step), on {tpu_slice}, mesh {mesh}"
    )


def advice(
    config: ml_collections.ConfigDict, setup_of: Callable[[ml_collections.ConfigDict], ModelSetup], tpu_slice: TpuSlice
) -> str:
    """Which settings make the step fit, found by compiling."""

    def memory_of(changed: ml_collections.ConfigDict) -> StepMemory:
        return batch_search.memory_with_batches(setup_of(changed))

    found = remedies.first_that_fits(config, memory_of, tpu_slice.chip.memory, tpu_slice.num_chips)
    if found is None:
        return "neither rematerialisation, accumulation nor fsdp makes it fit; use a smaller batch_size or more chips"
    settings, memory = found
    return f"it fits with {settings} ({memory.total / 2**30:.2f} GiB)"


def step_lines(cost: Cost, estimate: RunEstimate) -> list[str]:
    """Memory, collectives and time of a training step."""
    chip, seconds = estimate.tpu_slice.chip, estimate.step_seconds
    rate = cost.flops / estimate.tpu_slice.num_chips / seconds
    communication = run_estimate.collective_seconds(cost.collectives, estimate.tpu_slice)
    lines = [
        f"memory       fits: {cost.memory} of {chip.memory / 2**30:.2f} GiB",
        f"collectives  per step: {run_estimate.collective_summary(cost.collectives)}; not part of the step time "
        f"({1e3 * communication:.1f} ms at the peak rate of the links)",
        f"step time    {1e3 * seconds:.0f} ms, estimated by the compiler, not measured "
        f"({estimate.cycles.total / 1e6:.0f} M cycles at {chip.clock / 1e9:g} GHz)",
    ]
    lines += [
        f"             {cycles / estimate.cycles.total:4.0%} {name}"
        for name, cycles in estimate.cycles.by_module.items()
    ]
    if estimate.cycles.uncounted:
        targets = ", ".join(f"{name} x {times}" for name, times in estimate.cycles.uncounted.items())
        lines.append(f"             not estimated: {targets}")
    return [
        *lines,
        f"operations   {cost.flops / 1e12:.1f} TFLOP per step, {rate / 1e12:.0f} TFLOP/s per chip: "
        f"{rate / chip.peak_flops:.0%} of the bfloat16 peak at this step time",
        f"input        {estimate.clips_per_second:.0f} clips/s; each host must decode {estimate.frames_per_host:.0f} "
        f"JPEG frames/s, {estimate.frames_per_host / estimate.tpu_slice.cores_per_host:.0f} per vCPU "
        "(the last line of scripts.bench_input says how many one decodes)",
    ]


def num_videos(config: ml_collections.ConfigDict) -> tuple[int | None, int | None]:
    """Training and validation videos: from the flags or from the table of public data sets; None if unknown."""
    dataset = datasets.find(config.data.train)
    known = (dataset.train_videos, dataset.val_videos) if dataset else (None, None)
    return TRAIN_VIDEOS.value or known[0], VAL_VIDEOS.value or known[1]


def run_lines(estimate: RunEstimate, train_videos: int | None, val_videos: int | None) -> list[str]:
    """Hours and cost of the whole run."""
    config = estimate.config
    if not train_videos:
        return [f"run          --train_videos is missing: the number of videos in data.train={config.data.train}"]
    hours, schedule = estimate.training_hours(train_videos), StepPlan(config, train_videos)
    lines = [f"run          {schedule}: {hours:.1f} hours of training"]
    if val_videos:
        evaluation = estimate.evaluation_hours(train_videos, val_videos)
        views = config.eval.num_views * config.eval.num_crops
        lines.append(
            f"             {val_videos:,} validation videos x {views} views: {evaluation:.1f} hours of evaluation"
        )
        hours += evaluation
    else:
        lines.append("             --val_videos is missing: without evaluations")
    chip_hours = hours * estimate.tpu_slice.num_chips
    price = "" if PRICE.value is None else f": {PRICE.value * chip_hours:,.0f} USD at {PRICE.value:g} per chip-hour"
    return [*lines, f"cost         {hours:.1f} hours, {chip_hours:,.0f} chip-hours{price}"]


def parse_flags(argv: list[str]) -> list[str]:
    """The flag parser for `app.run`. Names may also have dashes. Raises UserError for invalid flags."""

    def with_underscores(argument: str) -> str:
        name, equals, value = argument.partition("=")
        return (f"--{name[2:].replace('-', '_')}" if name.startswith("--") else name) + equals + value

    return command_line.parse_flags(flags.FLAGS, [with_underscores(argument) for argument in argv])


if __name__ == "__main__":
    exit_with_message(lambda: app.run(main, argv=sys.argv, flags_parser=parse_flags))
