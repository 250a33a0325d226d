"""The training state."""

from typing import TYPE_CHECKING

import flax.struct
import jax

if TYPE_CHECKING:
    import optax  # a slow import that readers of checkpoints do not need


class TrainState(flax.struct.PyTreeNode):
    """The arrays that training changes. It contains no frozen parameter."""

    step: jax.Array  # int32 [], completed or skipped optimizer steps; the only counter of schedule and random draws
    params: dict  # DiST parameters, float32
    opt_state: "optax.OptState"
    ema: dict | None  # moving average of params; None if config.ema_decay is 0
