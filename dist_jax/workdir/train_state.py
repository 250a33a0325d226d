"""The training state."""

import flax.struct
import jax
import optax


class TrainState(flax.struct.PyTreeNode):
    """What training changes, and nothing else: no frozen parameter is in here."""

    step: jax.Array  # int32 [], optimizer steps made or skipped: the schedule's and the draws' only counter
    params: dict  # of the DiST network, float32
    opt_state: optax.OptState
    ema: dict | None  # moving average of params; None where config.ema_decay is 0
