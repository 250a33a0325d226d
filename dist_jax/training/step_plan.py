"""The length of a training run, its evaluations and its learning rate: arithmetic of the configuration and the data."""

import ml_collections

from dist_jax.errors import UserError
from dist_jax.training.optimizer import lr_schedule


class StepPlan:
    """Which steps a run has.

    Attributes:
        num_steps: optimizer steps of the whole training.
        epochs: the same in passes over the training records.
        eval_every_steps: steps between evaluations.
        learning_rate: completed steps -> float32 [], the rate of the next step.
    """

    def __init__(self, config: ml_collections.ConfigDict, num_records: int) -> None:
        """Plans a run over `num_records` training records. Raises UserError if the warm-up covers the whole run."""
        epochs_per_step = config.batch_size / num_records
        self.num_steps = config.steps or max(1, round(config.epochs / epochs_per_step))
        self.epochs = self.num_steps * epochs_per_step if config.steps else config.epochs
        self.eval_every_steps = max(1, round(config.eval.every_epochs / epochs_per_step))
        self.learning_rate = lr_schedule(config.optimizer, self.epochs, epochs_per_step)
        self._summary = f"{num_records} training records, {self.num_steps} steps of {config.batch_size} clips"
        warmup = config.optimizer.warmup_epochs
        if warmup >= self.epochs:
            raise UserError(
                f"optimizer.warmup_epochs={warmup:g} is not less than the {self.epochs:g} epochs of this training; set "
                f"optimizer.warmup_epochs to less, e.g. {self.epochs / 6:.2g}, or "
                f"{'steps' if config.steps else 'epochs'} to more"
            )

    def is_eval_step(self, step: int) -> bool:
        """Whether an evaluation follows `step`."""
        return step >= self.num_steps or step % self.eval_every_steps == 0

    def __str__(self) -> str:
        return f"{self._summary} ({self.epochs:g} epochs)"
