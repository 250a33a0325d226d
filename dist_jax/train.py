"""The training loop: build, restore, loop, log, evaluate, save."""

import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import jax
import ml_collections
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jax.stages import Compiled

from dist_jax import evaluate, memory, mixing, sharding
from dist_jax.checkpoint import Checkpoints, check_resumes, write_run
from dist_jax.data import pipeline, sources
from dist_jax.data.faults import Faults
from dist_jax.data.prefetch import Prefetcher
from dist_jax.data.sources import Source
from dist_jax.experiment import Experiment, build
from dist_jax.optimizer import learning_rate, make_optimizer
from dist_jax.report import parameter_table
from dist_jax.steps import Trainer, TrainState
from dist_jax.text.embedding import precision_of
from dist_jax.watch import Watch
from dist_jax.weights.init_from import load_initial

PREEMPTED = 75  # exit status (EX_TEMPFAIL) after a SIGTERM: "start me again"


class Preempted(SystemExit):
    """A SIGTERM came; the state is saved."""


def train(config: ml_collections.ConfigDict, workdir: str, mesh: Mesh) -> dict[str, float]:
    """Trains to the end of `config`, from the newest checkpoint in `workdir` if there is one.

    Args:
        config: validated.
        workdir: folder of this run.
        mesh: of all devices.

    Returns:
        The last evaluation: videos, top1, top5, mean_class_accuracy.

    Raises:
        UserError: for what the user can mend.
        Preempted: after a SIGTERM, when the state is saved.
    """
    sharding.check_batch(mesh, "batch_size", config.batch_size, config.accumulate)
    sharding.check_batch(mesh, "eval.batch_size", config.eval.batch_size)
    source, val_source = (sources.open_source(config.data, split) for split in ("train", "val"))
    experiment = build(config, mesh)
    run = experiment.run(source.size)
    check_resumes(workdir, run)
    plan = Plan(config, source.size)
    trainer = Trainer(experiment.model, plan.optimizer, experiment.config, sharding.replicated(mesh))
    checkpoints = Checkpoints(workdir, config.checkpoint.keep, config.checkpoint.best)
    state = initial_state(trainer, checkpoints, mesh, experiment.backbone)
    start = int(state.step)
    if jax.process_index() == 0:
        write_run(workdir, run)
        print(parameter_table(experiment.frozen, state.params))
        print(f"{plan}; {'finished' if start == plan.steps else 'resuming' if start else 'starting'} at step {start}")
    step_fn = compile_step(trainer, experiment, state)
    if jax.process_index() == 0:
        print(f"the training step takes {memory.step_memory(step_fn)}", flush=True)
    eval_fn = evaluate.make_eval_step(experiment)
    watch = Watch(workdir, start, plan.steps, experiment.config)

    def evaluate_now(state: TrainState) -> dict[str, float]:
        params = state.params if state.ema is None else state.ema
        with watch.pause():
            found = evaluate.score_videos(experiment, val_source, eval_fn, params, bad_val)
        summary = evaluate.summarize(found)
        watch.write(int(state.step), summary | {f"bad_{kind}": count for kind, count in found.bad.items()}, "eval_")
        watch.say(f"step {int(state.step)}: top-1 {summary['top1']:.1%}, top-5 {summary['top5']:.1%}")
        if jax.process_index() == 0:
            views = config.eval.views * config.eval.crops
            evaluate.write_results(
                epath.Path(workdir) / "results", "val", found, experiment.classes, views, int(state.step)
            )
        return summary

    summary = None
    bad_train, bad_val = (
        Faults(split, evaluate.bad_records_file(workdir), opened.identity)
        for split, opened in (("train", source), ("val", val_source))
    )
    with (
        preemption_notice() as preempted,
        closing(checkpoints),  # whatever ends the loop, a checkpoint that was begun is finished
        closing(watch),
        train_input(trainer, mesh, source, start, bad_train) as batches,
    ):
        if 0 < start < plan.steps and start % plan.eval_every == 0 and checkpoints.metrics(start) is None:
            evaluate_now(state)  # what a notice to stop left out
        for step in range(start + 1, plan.steps + 1):
            watch.profile(step)
            batch = next(batches)
            state, metrics = step_fn(state, experiment.frozen, experiment.text, batch)
            watch.step(step, metrics, plan.rate, batches.waited, bad_train.counts)
            last = step == plan.steps
            stopping = preempted(step) and not last  # asked first: an evaluation may outlast the notice
            due = last or (step % plan.eval_every == 0 and not stopping)
            summary = evaluate_now(state) if due else None
            if last or summary or stopping or step % config.checkpoint.every_steps == 0:
                watch.flush()  # a checkpoint holds only steps whose loss is known to be finite
                checkpoints.save(step, state, summary)
            if stopping:
                watch.say(f"told to stop: step {step} is saved, and the same command goes on from there")
                raise Preempted(PREEMPTED)
        return summary or checkpoints.metrics(plan.steps) or evaluate_now(state)


class Plan:
    """How many steps there are, and what happens at which: pure arithmetic of the configuration and the data."""

    def __init__(self, config: ml_collections.ConfigDict, records: int) -> None:
        """For `records` training records."""
        self._settings = config.optimizer
        self.epochs_per_step = config.batch_size / records
        self.steps = config.steps or max(1, round(config.epochs / self.epochs_per_step))
        self.epochs = self.steps * self.epochs_per_step if config.steps else config.epochs
        self.eval_every = max(1, round(config.eval.every_epochs / self.epochs_per_step))
        self.optimizer = make_optimizer(config.optimizer, self.epochs, self.epochs_per_step)
        self._line = f"{records} training records, {self.steps} steps of {config.batch_size} clips"

    def rate(self, step: int) -> float:
        """The learning rate of the step that follows `step` steps."""
        return float(learning_rate(step * self.epochs_per_step, self.epochs, self._settings))

    def __str__(self) -> str:
        """For the start of a run."""
        return f"{self._line} ({self.epochs:g} epochs)"


def initial_state(trainer: Trainer, checkpoints: Checkpoints, mesh: Mesh, backbone: dict[str, str]) -> TrainState:
    """The newest checkpoint, else the parameters of config.init_from, else fresh ones; placed on the mesh."""
    wanted = abstract_state(trainer, mesh)
    if checkpoints.latest is not None:
        return checkpoints.restore(checkpoints.latest, wanted)
    layout = jax.tree.map(lambda leaf: leaf.sharding, wanted)
    if trainer.config.init_from:
        params = load_initial(trainer.config.init_from, trainer.model.dist, backbone, same_backbone=False)
        params = sharding.place_tree(mesh, params)
        return jax.jit(trainer.state_of, out_shardings=layout)(params)
    return jax.jit(trainer.init, out_shardings=layout)(jax.random.key(trainer.config.seed))


def abstract_state(trainer: Trainer, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and places of the state, without any memory for it."""
    shapes = jax.eval_shape(trainer.init, jax.random.key(0))
    layout = sharding.tree_shardings(mesh, shapes)
    return jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, layout)


def compile_step(trainer: Trainer, experiment: Experiment, state: TrainState) -> Compiled:
    """The training step, compiled for this state (its leaves need but shape, dtype and sharding) and batch size."""
    layout = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = jax.jit(trainer.train_step, donate_argnums=0, out_shardings=(layout, sharding.replicated(experiment.mesh)))
    with precision_of(trainer.model.dtype):
        return step.lower(state, experiment.frozen, experiment.text, batch_shapes(trainer, experiment.mesh)).compile()


def find_batch(config: ml_collections.ConfigDict, mesh: Mesh) -> int:
    """Prints and returns the largest batch_size whose training step fits into a device's memory; compiles only."""
    experiment = build(config, mesh)
    plan = Plan(config, records=config.batch_size)
    limit = memory.device_limit()
    unit = memory.batch_unit(mesh.shape["data"] * mesh.shape["fsdp"], config.accumulate, config.mix.group)

    def memory_of(batch_size: int) -> memory.StepMemory:
        tried = ml_collections.ConfigDict(config)
        tried.batch_size = batch_size
        tried = ml_collections.FrozenConfigDict(tried)
        trainer = Trainer(experiment.model, plan.optimizer, tried, sharding.replicated(mesh))
        found = memory.step_memory(compile_step(trainer, experiment, abstract_state(trainer, mesh)))
        found = memory.with_waiting_batches(found, batch_shapes(trainer, mesh), config.data.prefetch)
        print(f"batch_size={batch_size}: {found}", flush=True)
        return found

    largest = memory.largest_batch(memory_of, unit, limit)
    print(f"largest batch_size that fits into {limit / 2**30:.2f} GiB: {largest or f'none, not even {unit}'}")
    return largest


def batch_shapes(trainer: Trainer, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and places of what a step takes: video uint8 [B, T, H, W, 3], label int32 [B]."""
    config, size = trainer.config, trainer.model.vision.resolution
    layout = sharding.batch_sharding(mesh)
    shape = (config.batch_size, config.model.frames, size, size, 3)
    return {
        "video": jax.ShapeDtypeStruct(shape, np.uint8, sharding=layout),
        "label": jax.ShapeDtypeStruct(shape[:1], np.int32, sharding=layout),
    }


def train_input(trainer: Trainer, mesh: Mesh, source: Source, start: int, faults: Faults) -> Prefetcher:
    """Batches on the devices from step `start` on: this host reads its rows alone."""
    config = trainer.config
    order = mixing.order(config.batch_size, config.mix.group)
    rows = order[sharding.local_rows(mesh, config.batch_size)]
    shapes = batch_shapes(trainer, mesh)
    batches = pipeline.train_batches(config, source, start, rows, trainer.model.vision.resolution, faults)

    def put(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return {
            name: jax.make_array_from_process_local_data(like.sharding, batch[name], like.shape)
            for name, like in shapes.items()
        }

    return Prefetcher(batches, put, config.data.prefetch)


@contextmanager
def preemption_notice() -> Iterator[Callable[[int], bool]]:
    """Gives a function that says, after a step, whether all hosts are to save and leave now.

    With several hosts the notice comes through JAX's coordination service, which agrees on one step for all.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        yield multihost_utils.reached_preemption_sync_point
        return
    noticed = []
    before = signal.signal(signal.SIGTERM, lambda *_: noticed.append(True))
    try:
        yield lambda step: bool(noticed)
    finally:
        signal.signal(signal.SIGTERM, before)
