"""Number of steps, evaluation steps and learning-rate schedule of a run, from the configuration and the data size."""

import ml_collections

from dist_jax.errors import UserError
from dist_jax.training.optimizer import lr_schedule


class StepPlan:
    """The steps of a run.

    Attributes:
        num_steps: optimizer steps of the complete training.
        epochs: the same length in passes over the training records.
        eval_every_steps: steps between evaluations, except before the last one.
        lr_schedule: completed steps -> learning rate of the next step, float32 [].
    """

    def __init__(self, config: ml_collections.ConfigDict, num_records: int) -> None:
        """Plans a run on `num_records` training records. Raises UserError if the warm-up is as long as the run."""
        epochs_per_step = config.batch_size / num_records
        self.num_steps = config.steps or max(1, round(config.epochs / epochs_per_step))
        self.epochs = self.num_steps * epochs_per_step if config.steps else config.epochs
        self.eval_every_steps = max(1, round(config.eval.every_epochs / epochs_per_step))
        self.lr_schedule = lr_schedule(config.optimizer, self.epochs, epochs_per_step)
        self._summary = f"{num_records} training records, {self.num_steps} steps of {config.batch_size} clips"
        warmup = config.optimizer.warmup_epochs
        if warmup >= self.epochs:
            raise UserError(
                f"optimizer.warmup_epochs={warmup:g} is not less than the {self.epochs:g} epochs of this training; set "
                f"optimizer.warmup_epochs to less, e.g. {self.epochs / 6:.2g}, or "
                f"{'steps' if config.steps else 'epochs'} to more"
            )

    def is_eval_step(self, step: int) -> bool:
        """Whether an evaluation follows `step`.

        The last step is evaluated, and every `eval_every_steps` steps those at least half an interval before it: the
        interval is rounded, so that the last epoch would be evaluated twice within a few steps.
        """
        is_close_to_end = 2 * (self.num_steps - step) < self.eval_every_steps
        return step >= self.num_steps or (step % self.eval_every_steps == 0 and not is_close_to_end)

    @property
    def num_evals(self) -> int:
        """Number of evaluations in the complete training."""
        return sum(map(self.is_eval_step, {*range(0, self.num_steps, self.eval_every_steps), self.num_steps} - {0}))

    def __str__(self) -> str:
        return f"{self._summary} ({self.epochs:g} epochs)"
