"""The training loop: build, restore, loop, log, evaluate, save."""

import dataclasses
from contextlib import closing

import jax
import ml_collections
import numpy as np
from clu import parameter_overview
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.stages import Compiled

from dist_jax.config import mix_group
from dist_jax.data import pipeline, sources
from dist_jax.data.bad_records import BadRecords
from dist_jax.data.prefetch import Prefetcher
from dist_jax.data.source import Source
from dist_jax.distributed import preemption, sharding
from dist_jax.distributed.preemption import Preempted, PreemptionNotice
from dist_jax.errors import UserError
from dist_jax.evaluation import evaluate
from dist_jax.experiment import Experiment, build, check_flips
from dist_jax.text.text_features import precision_of
from dist_jax.training import memory, mixing
from dist_jax.training.logger import TrainLogger
from dist_jax.training.optimizer import make_optimizer, make_schedule
from dist_jax.training.train_step import TrainStep
from dist_jax.weights.init_from import load_initial
from dist_jax.workdir.checkpoints import Checkpoints
from dist_jax.workdir.run_metadata import RunMetadata, check_resumes, make_workdir, write_run
from dist_jax.workdir.train_state import TrainState


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
    sharding.check_batch(mesh, "batch_size", config.batch_size, config.grad_accum_steps)
    sharding.check_batch(mesh, "eval.batch_size", config.eval.batch_size)
    make_workdir(workdir)
    with preemption.listening() as notice, memory.refusing_too_large():  # first: loading and compiling take minutes
        source, val_source = (sources.open_source(config.data, split) for split in ("train", "val"))
        plan = Plan(config, source.size)
        experiment = build(config, mesh)
        check_flips(config, experiment.classes)
        trainer = TrainStep(
            experiment.model, make_optimizer(config.optimizer), plan.rate, experiment.config, sharding.replicated(mesh)
        )
        evaluator = evaluate.Evaluator(experiment, val_source, workdir, "val")
        faults = BadRecords("train", evaluate.bad_records_file(workdir), source.identity)
        with closing(Checkpoints(workdir, config.checkpoint.max_to_keep, config.checkpoint.best_metric)) as checkpoints:
            state = begin(workdir, experiment.run(source.size), trainer, checkpoints, experiment)
            start = int(state.step)
            if jax.process_index() == 0:
                how = "finished" if start >= plan.steps else "resuming" if start else "starting"
                print(
                    parameter_overview.get_parameter_overview(
                        {"frozen": experiment.frozen, "dist": state.params}, include_stats=False
                    )
                )
                print(f"{plan}; {how} at step {start}", flush=True)
            with closing(TrainLogger(workdir, start, plan.steps, plan.rate, experiment.config)) as watch:
                loop = Trainer(trainer, experiment, plan, checkpoints, watch, evaluator, notice)
                return loop.run(state, source, faults)


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The steps of a run and what comes between them: logging, evaluating, saving, leaving when told to."""

    trainer: TrainStep
    experiment: Experiment
    plan: "Plan"
    checkpoints: Checkpoints
    watch: TrainLogger
    evaluator: evaluate.Evaluator
    notice: PreemptionNotice

    def run(self, state: TrainState, source: Source, faults: BadRecords) -> dict[str, float]:
        """From `state` to the end of the plan.

        Args:
            state: placed on the mesh; donated.
            source: of the training clips.
            faults: takes its bad records.

        Returns:
            The last evaluation.

        Raises:
            UserError: if the loss is not finite, or the data is bad.
            Preempted: when told to stop; the newest state is saved.
        """
        watch, plan, start = self.watch, self.plan, int(state.step)
        watch.beat()
        if start and plan.evaluates(start):
            summary = self.evaluation_of(state)
            if start >= plan.steps:
                return summary
        self.leave_if_told(start)
        with watch.pause():
            step_fn = compile_step(self.trainer, self.experiment, state)
        if jax.process_index() == 0:
            print(f"the training step takes {memory.step_memory(step_fn)}", flush=True)
        with train_input(self.trainer, self.experiment.mesh, source, start, faults) as batches:
            self.leave_if_told(start)
            for step in range(start + 1, plan.steps + 1):
                watch.profile(step)
                state, metrics = step_fn(state, self.experiment.frozen, self.experiment.text, next(batches))
                watch.step(step, metrics, batches.waited, faults.counts)
                summary = self.between_steps(step, state)
        return summary

    def between_steps(self, step: int, state: TrainState) -> dict[str, float] | None:
        """Evaluates and saves if it is time; the evaluation, if there was one. Raises Preempted when told to stop."""
        told = self.notice()  # asked before an evaluation, which may outlast the notice
        if told or step == self.plan.steps:
            self.watch.log()
        due = self.plan.evaluates(step)
        summary = self.evaluate(step, state) if due and not told else None
        told = self.notice.come and (step < self.plan.steps or summary is None)
        if due or told or step % self.trainer.config.checkpoint.save_every_steps == 0:
            self.watch.flush()  # a checkpoint holds only steps whose loss is known to be finite
            self.checkpoints.save(step, state, summary)
        if told:
            self.watch.log()
            self.leave(step)
        return summary

    def evaluate(self, step: int, state: TrainState) -> dict[str, float] | None:
        """Evaluates, writes results/val.* and metrics; None if a notice to stop came on the way."""

        def after_batch() -> bool:
            self.watch.beat()
            return self.notice()

        with self.watch.pause():
            found = self.evaluator(step, state.params if state.ema is None else state.ema, after_batch)
        if found is None:
            return None
        summary = evaluate.summarize(found)
        self.watch.write(step, summary | {f"bad_{kind}": count for kind, count in found.bad.items()}, "eval_")
        self.watch.say(f"step {step}: top-1 {summary['top1']:.1%}, top-5 {summary['top5']:.1%}")
        return summary

    def evaluation_of(self, state: TrainState) -> dict[str, float]:
        """The evaluation of a restored state: as it was saved or logged, or made now, if a notice had left it out."""
        step = int(state.step)
        found = self.checkpoints.metrics(step) or self.watch.evaluation(step)
        if jax.process_count() > 1:  # hosts may see different ages of a file, and must do the same
            known = multihost_utils.broadcast_one_to_all(np.asarray(found is not None))
            found = (found or {}) if known else None
        if found is None:
            found = self.evaluate(step, state)
            self.leave_if_told(step)
        return found

    def leave_if_told(self, step: int) -> None:
        """Raises Preempted if the notice has come; `step` is the restored one, or 0."""
        if self.notice():
            self.leave(step)

    def leave(self, step: int) -> None:
        """Raises Preempted; `step` is saved, or 0."""
        where = f"step {step} is saved, and the same command goes on from there" if step else "nothing was done yet"
        self.watch.say(f"told to stop: {where}")
        raise Preempted


class Plan:
    """How many steps there are, and what happens at which: pure arithmetic of the configuration and the data.

    Attributes:
        steps: of the whole training.
        epochs: the same in passes over the training records.
        eval_every: steps from one evaluation to the next.
        rate: gives the learning rate, float32 [], of the step that follows so many.
    """

    def __init__(self, config: ml_collections.ConfigDict, records: int) -> None:
        """For `records` training records; UserError if the learning rate would never reach its cosine."""
        epochs_per_step = config.batch_size / records
        self.steps = config.steps or max(1, round(config.epochs / epochs_per_step))
        self.epochs = self.steps * epochs_per_step if config.steps else config.epochs
        self.eval_every = max(1, round(config.eval.every_epochs / epochs_per_step))
        self.rate = make_schedule(config.optimizer, self.epochs, epochs_per_step)
        self._line = f"{records} training records, {self.steps} steps of {config.batch_size} clips"
        warmup = config.optimizer.warmup_epochs
        if warmup >= self.epochs:
            raise UserError(
                f"optimizer.warmup_epochs={warmup:g} is not less than the {self.epochs:g} epochs of this training, in "
                f"which nothing would be learned; set optimizer.warmup_epochs to less, e.g. {self.epochs / 6:.2g}, or "
                f"{'steps' if config.steps else 'epochs'} to more"
            )

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows `step`."""
        return step >= self.steps or step % self.eval_every == 0

    def __str__(self) -> str:
        """For the start of a run."""
        return f"{self._line} ({self.epochs:g} epochs)"


def begin(
    workdir: str, run: RunMetadata, trainer: TrainStep, checkpoints: Checkpoints, experiment: Experiment
) -> TrainState:
    """The state that training begins with, placed on the mesh; writes run.json.

    It is the newest checkpoint, else made of the parameters of config.init_from, else of fresh ones.

    Raises:
        UserError: if the checkpoints are another run's, or the weights of init_from another network's.
    """
    if checkpoints.latest is not None:  # without one there is nothing to go on from, so nothing that could conflict
        check_resumes(workdir, run)
    if jax.process_index() == 0:
        write_run(workdir, run)
    wanted = abstract_state(trainer, experiment.mesh)
    if checkpoints.latest is not None:
        return checkpoints.restore(checkpoints.latest, wanted)
    layout = jax.tree.map(lambda leaf: leaf.sharding, wanted)
    source = trainer.config.init_from
    if source:
        params = load_initial(source, trainer.model.dist, experiment.backbone, same_backbone=False)
        params = sharding.place_tree(experiment.mesh, params)
        return jax.jit(trainer.state_of, out_shardings=layout)(params)
    return jax.jit(trainer.init, out_shardings=layout)(jax.random.key(trainer.config.seed))


def abstract_state(trainer: TrainStep, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and places of the state, without any memory for it."""
    shapes = jax.eval_shape(trainer.init, jax.random.key(0))
    layout = sharding.tree_shardings(mesh, shapes)
    return jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, layout)


def compile_step(trainer: TrainStep, experiment: Experiment, state: TrainState) -> Compiled:
    """The training step, compiled for this state (its leaves need but shape, dtype and sharding) and batch size.

    Raises:
        memory.TooLarge: where the compiler finds that it does not fit.
    """
    layout = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = jax.jit(trainer.train_step, donate_argnums=0, out_shardings=(layout, sharding.replicated(experiment.mesh)))
    with precision_of(trainer.model.dtype), memory.refusing_too_large():
        return step.lower(state, experiment.frozen, experiment.text, batch_shapes(trainer, experiment.mesh)).compile()


def batch_shapes(trainer: TrainStep, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and places of what a step takes: video uint8 [B, T, H, W, 3], label int32 [B]."""
    config, size = trainer.config, trainer.model.vision.resolution
    layout = sharding.batch_sharding(mesh)
    shape = (config.batch_size, config.model.num_frames, size, size, 3)
    return {
        "video": jax.ShapeDtypeStruct(shape, np.uint8, sharding=layout),
        "label": jax.ShapeDtypeStruct(shape[:1], np.int32, sharding=layout),
    }


def train_input(trainer: TrainStep, mesh: Mesh, source: Source, start: int, faults: BadRecords) -> Prefetcher:
    """Batches on the devices from step `start` on: this host reads its rows alone."""
    config = trainer.config
    order = mixing.order(config.batch_size, mix_group(config))
    rows = order[sharding.local_rows(mesh, config.batch_size)]
    shapes = batch_shapes(trainer, mesh)
    batches = pipeline.train_batches(config, source, start, rows, trainer.model.vision.resolution, faults)

    def put(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return {
            name: jax.make_array_from_process_local_data(like.sharding, batch[name], like.shape)
            for name, like in shapes.items()
        }

    return Prefetcher(batches, put, config.data.prefetch)
