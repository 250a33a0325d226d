"""The training loop: read a batch, step, log, evaluate, save, stop on preemption."""

import dataclasses
from contextlib import closing
from typing import NoReturn

import jax
import ml_collections
import numpy as np
from clu import parameter_overview
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dist_jax.data import clip_length, sources
from dist_jax.data.bad_records import BadRecords
from dist_jax.data.source import Source
from dist_jax.distributed import preemption, sharding
from dist_jax.distributed.preemption import Preempted, PreemptionNotice
from dist_jax.errors import DivergedError, UserError
from dist_jax.evaluation import evaluate
from dist_jax.evaluation.results import summary_line
from dist_jax.experiment import Experiment, build, check_flip_labels
from dist_jax.models.networks import NO_NETWORK
from dist_jax.training import memory
from dist_jax.training.compiled_step import compile_step, make_train_step
from dist_jax.training.logger import TrainLogger
from dist_jax.training.setup import device_batches, initial_state
from dist_jax.training.step_plan import StepPlan
from dist_jax.training.train_step import TrainStep
from dist_jax.workdir.checkpoints import Checkpoints
from dist_jax.workdir.run_metadata import make_workdir
from dist_jax.workdir.train_state import TrainState


def train(config: ml_collections.ConfigDict, workdir: str, mesh: Mesh) -> dict[str, float]:
    """Trains until the last step of `config`. Resumes from the newest checkpoint in `workdir` if there is one.

    Args:
        config: validated.
        workdir: folder of this run.
        mesh: of all devices.

    Returns:
        The last evaluation: videos, and the metrics of `evaluation.metrics.METRICS`.

    Raises:
        UserError: invalid settings, data or weights.
        Preempted: after a SIGTERM, once the state is saved.
    """
    sharding.check_batch(mesh, "batch_size", config.batch_size, config.grad_accum_steps)
    sharding.check_batch(mesh, "eval.batch_size", config.eval.batch_size)
    evaluate.check_best_metric(config)
    if config.model.network == NO_NETWORK:
        raise UserError(f"model.network={NO_NETWORK}: nothing to train; add --evaluate, or use another network")
    if not config.eval.has_labels:
        raise UserError("eval.has_labels=False: training evaluates with labels; use it with --evaluate")
    make_workdir(workdir)
    # Listen first: loading and compiling take minutes, and a SIGTERM may arrive during this time.
    with preemption.listen() as notice, memory.raise_too_large():
        source, val_source = (sources.open_source(config.data, split, config.seed) for split in ("train", "val"))
        plan = StepPlan(config, source.size)
        experiment = build(config, mesh)
        check_flip_labels(config, experiment.class_names)
        train_step = make_train_step(experiment, plan.lr_schedule)
        evaluator = evaluate.Evaluator(experiment, val_source, workdir, "val")
        bad_records = BadRecords("train", evaluate.bad_records_file(workdir), source.identity)
        options = config.checkpoint
        with closing(Checkpoints(workdir, options.max_to_keep, options.best_metric)) as checkpoints:
            metadata = experiment.run_metadata(source.size, _clip_seconds(config, source))
            state = initial_state(workdir, metadata, train_step, checkpoints, experiment)
            print_start(experiment, plan, state)
            first = int(state.step)
            log_state = checkpoints.log_state(first) if first else None
            logger = TrainLogger(workdir, first, plan.num_steps, plan.lr_schedule, experiment.config, log_state)
            with closing(logger):
                trainer = Trainer(train_step, experiment, plan, checkpoints, logger, evaluator, notice)
                return trainer.fit(state, source, bad_records)


def _clip_seconds(config: ml_collections.ConfigDict, source: Source) -> float | None:
    """Mean time that the frames of a training clip span; None: unknown, as for dense frames, which span less."""
    return clip_length.mean_seconds(source) if config.data.sampling == "segments" else None


def print_start(experiment: Experiment, plan: StepPlan, state: TrainState) -> None:
    """Prints the parameters, the plan and the first step, on one host."""
    if jax.process_index() == 0:
        step = int(state.step)
        action = "finished" if step >= plan.num_steps else "resuming" if step else "starting"
        params = {"frozen": experiment.frozen, "trained": state.params}
        print(parameter_overview.get_parameter_overview(params, include_stats=False))
        print(f"{plan}; {action} at step {step}", flush=True)


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The training loop of a run."""

    train_step: TrainStep
    experiment: Experiment
    plan: StepPlan
    checkpoints: Checkpoints
    logger: TrainLogger
    evaluator: evaluate.Evaluator
    notice: PreemptionNotice

    def fit(self, state: TrainState, source: Source, bad_records: BadRecords) -> dict[str, float]:
        """Trains from `state` to the end of the plan.

        Args:
            state: placed on the mesh; donated.
            source: of the training clips.
            bad_records: collects unreadable records.

        Returns:
            The last evaluation.

        Raises:
            UserError: the loss is not finite, or too many records are bad.
            Preempted: after a SIGTERM, once the newest state is saved.
        """
        first, last = int(state.step), self.plan.num_steps
        save_every_steps = self.train_step.config.checkpoint.save_every_steps
        self.logger.write_heartbeat()
        if first and self.plan.is_eval_step(first):
            summary = self.restored_evaluation(state)
            if first >= last:
                return summary
        self.stop_if_preempted(first)
        with self.logger.pause():
            step_fn = compile_step(self.train_step, self.experiment, state)
        if jax.process_index() == 0:
            print(f"the training step takes {memory.step_memory(step_fn)}", flush=True)
        with device_batches(self.train_step, self.experiment.mesh, source, first, bad_records) as batches:
            self.stop_if_preempted(first)
            for step in range(first + 1, last + 1):
                self.logger.profile(step)
                batch, bad = next(batches)
                state, metrics = step_fn(state, self.experiment.frozen, self.experiment.text_features, batch)
                self.logger.step(step, metrics, batches.waited, bad)

                # Poll and save before an evaluation: it may fail, or take longer than the time until the machine stops.
                preempted = self.notice.poll()
                if step == last:
                    self.logger.log()
                is_eval_step = self.plan.is_eval_step(step)
                if is_eval_step or preempted or step % save_every_steps == 0:
                    log_state = self.logger.state()  # raises if a loss is not finite: such a state is never saved
                    self.checkpoints.save(step, state, log_state=log_state)
                summary = self.evaluate(step, state) if is_eval_step and not preempted else None
                if summary is not None:
                    self.checkpoints.add_metrics(step, summary)

                # The notice may also arrive during the evaluation. After the last evaluation the run is finished.
                if self.notice.received and (step < last or summary is None):
                    self.logger.log()  # after the state is saved: the resumed run replaces this line
                    self.stop(step)
        return summary

    def evaluate(self, step: int, state: TrainState) -> dict[str, float] | None:
        """Evaluates, writes results/val.* and metrics. Returns None if a preemption notice stops the evaluation.

        Raises:
            UserError: the scores are NaN or infinite.
        """

        def should_stop() -> bool:
            self.logger.write_heartbeat()
            return self.notice.poll()

        with self.logger.pause(), memory.raise_too_large(memory.EVALUATION_TOO_LARGE):
            params = state.params if state.ema is None else state.ema
            try:
                result = self.evaluator(step, params, should_stop)
            except DivergedError as error:
                advice = "delete the checkpoint of this step, and run again with a lower optimizer.learning_rate"
                raise UserError(f"at step {step} {error.problem}; {advice}") from error
        if result is None:
            return None
        bad = {f"bad_{kind}": count for kind, count in result.bad.items()}
        self.logger.write(step, result.summary | bad, "eval_")
        self.logger.info(f"step {step}: {summary_line(result.summary)}")
        return result.summary

    def restored_evaluation(self, state: TrainState) -> dict[str, float]:
        """The evaluation of a restored state: from its checkpoint, from the log, or (if it is missing) computed now.

        Its checkpoint contains the evaluation afterwards. Raises Preempted if a notice stops the evaluation.
        """
        step = int(state.step)
        summary = self.checkpoints.metrics(step) or self.logger.evaluation(step)
        if jax.process_count() > 1:  # hosts may see different versions of a file; they follow host 0
            known = multihost_utils.broadcast_one_to_all(np.asarray(summary is not None))
            summary = (summary or {}) if known else None
        if summary is None:
            summary = self.evaluate(step, state)
        if summary is None:
            self.stop(step)
        self.checkpoints.add_metrics(step, summary)
        return summary

    def stop_if_preempted(self, step: int) -> None:
        """Raises Preempted if a notice has arrived. `step` is the restored step, or 0."""
        if self.notice.poll():
            self.stop(step)

    def stop(self, step: int) -> NoReturn:
        """Raises Preempted. The state of `step` is saved, or `step` is 0."""
        self.checkpoints.wait()  # a save may be in progress, and may fail
        status = f"step {step} is saved; run the same command again to resume" if step else "no step was made"
        self.logger.info(f"preempted: {status}")
        raise Preempted
