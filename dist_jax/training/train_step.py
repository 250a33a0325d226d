"""The training step: all computations of a step on the accelerator."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import optax

from dist_jax.config import mix_group
from dist_jax.models.video_model import VideoModel
from dist_jax.training import mixing
from dist_jax.training.augment import Draws, draw, network_inputs
from dist_jax.training.losses import is_correct, sigmoid_cross_entropy, soft_cross_entropy
from dist_jax.training.optimizer import update
from dist_jax.typing import PyTree
from dist_jax.workdir.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """The training step of a model: a pure function of the state, the frozen parameters, text features and a batch."""

    model: VideoModel
    optimizer: optax.GradientTransformation  # from optimizer.make_optimizer
    lr_schedule: Callable[[jax.Array], jax.Array]  # from optimizer.lr_schedule: completed updates -> float32 []
    config: ml_collections.FrozenConfigDict
    replicated: jax.sharding.Sharding | None = None  # sharding of replicated arrays; None on a single device

    def init(self, key: jax.Array) -> TrainState:
        """A new state with the published initialisation."""
        return self.state_from(self.model.init(key))

    def state_from(self, params: dict) -> TrainState:
        """A state at step 0 with these parameters."""
        ema = jax.tree.map(jnp.copy, params) if self.config.ema_decay > 0 else None
        return TrainState(jnp.zeros((), jnp.int32), params, self.optimizer.init(params), ema)

    def __call__(
        self, state: TrainState, frozen: dict, text_features: dict[str, jax.Array], batch: dict[str, PyTree]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One optimizer step.

        Args:
            state: donated by the caller.
            frozen: the backbone's parameters, without "text".
            text_features: of the class names, by label name, float32 [K, E] each.
            batch: "video" uint8 [B, T, H, W, 3]; "labels" by label name, int32 [B], or bool [B, K] with
              data.multi_label. Rows in the order of `mixing.order`.

        Returns:
            The next state, and float32 scalars: loss (sum over label names), grad_norm, accuracy (with the unmixed
            labels, mean over label names), skipped (1 if the loss or the gradient is not finite; in this case only the
            step number changes).
        """
        # Sample on every device: a sharded sample would add a collective. Gather the parameters that fsdp shards: they
        # are smaller than the activations that XLA would communicate otherwise.
        draws = draw(self.config, self.model.backbone.resolution, state.step)
        draws, params = self._replicate((draws, state.params))
        rows = jax.tree.map(self._split, (batch["video"], batch["labels"], draws))  # [grad_accum_steps, ...] each

        def part_loss(params: dict, part: tuple[jax.Array, dict, Draws]) -> tuple[jax.Array, jax.Array]:
            return self._loss(params, frozen, text_features, *part)

        grad_fn = jax.value_and_grad(part_loss, has_aux=True)
        if self.config.grad_accum_steps == 1:
            (loss, accuracy), grads = grad_fn(params, jax.tree.map(lambda x: x[0], rows))
        else:
            # A scan keeps one part's activations in memory at a time.
            def add_part(total: PyTree, part: PyTree) -> tuple[PyTree, None]:
                return jax.tree.map(jnp.add, total, grad_fn(params, part)), None

            zero = jnp.zeros(())
            total, _ = jax.lax.scan(add_part, ((zero, zero), jax.tree.map(jnp.zeros_like, state.params)), rows)
            (loss, accuracy), grads = jax.tree.map(lambda x: x / self.config.grad_accum_steps, total)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        state = self._update(state, grads, finite)
        skipped = 1.0 - finite.astype(jnp.float32)
        return state, {"loss": loss, "grad_norm": grad_norm, "accuracy": accuracy, "skipped": skipped}

    def _loss(
        self,
        params: dict,
        frozen: dict,
        text_features: dict[str, jax.Array],
        video: jax.Array,
        labels: dict[str, jax.Array],
        draws: Draws,
    ) -> tuple[jax.Array, jax.Array]:
        """Loss and accuracy of one part of a batch, float32 [] each."""
        num_classes = {name: features.shape[0] for name, features in text_features.items()}
        clips, targets = network_inputs(self.config, self.model.normalize, video, labels, num_classes, draws)
        clip_loss = sigmoid_cross_entropy if self.config.data.multi_label else soft_cross_entropy
        losses, accuracies = [], []
        for name, logits in self.model.logits(params, frozen, text_features, clips).items():  # [b, K] each
            losses.append(jnp.mean(clip_loss(logits, targets[name])))
            accuracies.append(jnp.mean(is_correct(logits, labels[name]).astype(jnp.float32)))
        return jnp.sum(jnp.stack(losses)), jnp.mean(jnp.stack(accuracies))

    def _replicate(self, tree: PyTree) -> PyTree:
        return tree if self.replicated is None else jax.lax.with_sharding_constraint(tree, self.replicated)

    def _split(self, rows: jax.Array) -> jax.Array:
        """[rows, ...] -> [grad_accum_steps, rows per part, ...].

        Each part holds whole pairs of mixed clips, and rows of every device: no clip moves between devices.
        """
        parts = self.config.grad_accum_steps
        pairs = self.config.batch_size // mixing.pair_size(mix_group(self.config))
        paired = rows.reshape(pairs // parts, parts, -1, *rows.shape[1:])
        paired = paired.swapaxes(0, 1)  # [parts, pairs per part, clips or draws of a pair, ...]
        return paired.reshape(parts, -1, *rows.shape[1:])

    def _update(self, state: TrainState, grads: dict, finite: jax.Array) -> TrainState:
        learning_rate = self.lr_schedule(state.step)
        params, opt_state = update(self.optimizer, learning_rate, grads, state.opt_state, state.params)
        ema = state.ema
        if ema is not None:
            decay = self.config.ema_decay
            ema = jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, ema, params)
        before = (state.params, state.opt_state, state.ema)
        after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), (params, opt_state, ema), before)
        return TrainState(state.step + 1, *after)
