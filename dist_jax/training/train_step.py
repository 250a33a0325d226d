"""The training state and the two pure steps: everything that runs on the accelerator."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import optax

from dist_jax.config import mix_group
from dist_jax.models.video_model import VideoModel
from dist_jax.training import mixing
from dist_jax.training.augment import draw, network_inputs
from dist_jax.training.losses import soft_cross_entropy
from dist_jax.training.optimizer import update
from dist_jax.workdir.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """The static side of a training step."""

    model: VideoModel
    optimizer: optax.GradientTransformation  # of optimizer.make_optimizer
    rate: Callable[[jax.Array], jax.Array]  # of the step that follows so many; see optimizer.make_schedule
    config: ml_collections.FrozenConfigDict
    replicated: jax.sharding.Sharding | None = None  # of what all devices hold alike; None where there is one device

    def init(self, key: jax.Array) -> TrainState:
        """A fresh state for the network's parameters as the release initialises them."""
        d, v = self.model.dist, self.model.vision
        features = jnp.zeros((len(d.layers), 1, d.sparse_frames, 1 + v.num_patches, v.width))
        video = jnp.zeros((1, d.num_frames, v.resolution, v.resolution, 3))
        params = self.model.network.init(key, features, video)["params"]
        return self.state_of(params)

    def state_of(self, params: dict) -> TrainState:
        """A state at step 0 with these parameters."""
        ema = jax.tree.map(jnp.copy, params) if self.config.ema_decay > 0 else None
        return TrainState(jnp.zeros((), jnp.int32), params, self.optimizer.init(params), ema)

    def train_step(
        self, state: TrainState, frozen: dict, text: jax.Array, batch: dict[str, jax.Array]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One optimizer step.

        Args:
            state: donated by the caller.
            frozen: {"vision", "logit_scale"} of CLIP.
            text: features of the class texts, float32 [K, E].
            batch: "video" uint8 [B, T, H, W, 3], "label" int32 [B]; its rows in the order of `mixing.order`.

        Returns:
            The next state, and float32 scalars: loss, grad_norm, accuracy (of the unmixed label), skipped (1 if
            the loss or the gradient is not finite: then all but the step's number stays as it was).
        """
        # Drawn in part by each device, the draws would have to wait for each other; the network's parameters, where
        # their state is spread, are small beside the clips that would travel in their place.
        draws = draw(self.config, self.model.vision.resolution, state.step)
        draws, params = self._replicate((draws, state.params))
        parts = jax.tree.map(self._split, (batch["video"], batch["label"], draws))

        def loss_of(params: dict, part: tuple) -> tuple[jax.Array, jax.Array]:
            video, label, draws = part
            clips, targets = network_inputs(self.config, self.model.dtype, video, label, text.shape[0], draws)
            logits = self.model.logits(params, frozen, text, clips)
            hits = (jnp.argmax(logits, axis=-1) == label).astype(jnp.float32)
            return jnp.mean(soft_cross_entropy(logits, targets)), jnp.mean(hits)

        def add_part(total: tuple, part: tuple) -> tuple[tuple, None]:
            return jax.tree.map(jnp.add, total, jax.value_and_grad(loss_of, has_aux=True)(params, part)), None

        if self.config.grad_accum_steps == 1:
            whole = jax.tree.map(lambda x: x[0], parts)
            (loss, accuracy), grads = jax.value_and_grad(loss_of, has_aux=True)(params, whole)
        else:
            zero = jnp.zeros(())
            nothing = ((zero, zero), jax.tree.map(jnp.zeros_like, state.params))
            total, _ = jax.lax.scan(add_part, nothing, parts)
            (loss, accuracy), grads = jax.tree.map(lambda x: x / self.config.grad_accum_steps, total)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        state = self._update(state, grads, finite)
        skipped = 1.0 - finite.astype(jnp.float32)
        return state, {"loss": loss, "grad_norm": norm, "accuracy": accuracy, "skipped": skipped}

    def _replicate(self, tree: object) -> object:
        return tree if self.replicated is None else jax.lax.with_sharding_constraint(tree, self.replicated)

    def _split(self, rows: jax.Array) -> jax.Array:
        """[rows, ...] -> [grad_accum_steps, rows per part, ...]; a part holds whole pairs, rows of every device."""
        pairs = self.config.batch_size // mixing.partners(mix_group(self.config))
        paired = rows.reshape(pairs // self.config.grad_accum_steps, self.config.grad_accum_steps, -1, *rows.shape[1:])
        paired = paired.swapaxes(0, 1)  # [grad_accum_steps, pairs a part, clips or draws of a pair, ...]
        return paired.reshape(self.config.grad_accum_steps, -1, *rows.shape[1:])

    def _update(self, state: TrainState, grads: dict, finite: jax.Array) -> TrainState:
        params, opt_state = update(self.optimizer, self.rate(state.step), grads, state.opt_state, state.params)
        ema = state.ema
        if ema is not None:
            decay = self.config.ema_decay
            ema = jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, ema, params)
        kept = (state.params, state.opt_state, state.ema)
        made = jax.tree.map(lambda new, old: jnp.where(finite, new, old), (params, opt_state, ema), kept)
        return TrainState(state.step + 1, *made)
