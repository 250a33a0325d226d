"""The training state and the two pure steps: everything that runs on the accelerator."""

import dataclasses
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax

from dist_jax import mixing
from dist_jax.losses import smooth_labels, soft_cross_entropy
from dist_jax.models.video_model import VideoModel
from dist_jax.preprocess import color_jitter, grayscale, normalize


class TrainState(flax.struct.PyTreeNode):
    """What training changes, and nothing else: no frozen parameter is in here."""

    step: jax.Array  # int32 [], optimizer steps made
    params: dict  # of the DiST network, float32
    opt_state: optax.OptState
    ema: dict | None  # moving average of params; None where config.ema is 0


class Draws(NamedTuple):
    """The random choices of one batch: small arrays, drawn for the whole batch whatever its parts and devices."""

    gray: jax.Array  # bool [B]
    jitter: jax.Array  # float32 [B, 3], factors of brightness, contrast, saturation
    mix: mixing.MixDraw  # of the pairs of clips that are mixed, the same for all pairs of a group


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The static side of a training step: the model, the optimizer and the settings."""

    model: VideoModel
    optimizer: optax.GradientTransformation
    config: ml_collections.FrozenConfigDict
    everywhere: jax.sharding.Sharding | None = None  # what all devices hold alike; None where there is one device

    def init(self, key: jax.Array) -> TrainState:
        """A fresh state for the network's parameters as the paper initialises them."""
        d, v = self.model.dist, self.model.vision
        features = jnp.zeros((len(d.selected), 1, d.sparse_frames, 1 + v.patches, v.width))
        video = jnp.zeros((1, d.frames, v.resolution, v.resolution, 3))
        params = self.model.network.init(key, features, video)["params"]
        return self.state_of(params)

    def state_of(self, params: dict) -> TrainState:
        """A state at step 0 with these parameters."""
        ema = jax.tree.map(jnp.copy, params) if self.config.ema > 0 else None
        return TrainState(jnp.zeros((), jnp.int32), params, self.optimizer.init(params), ema)

    def draw(self, step: jax.Array, batch_size: int) -> Draws:
        """The random choices of the batch of `step`: they depend on nothing but the seed and the step."""
        augment, size = self.config.augment, (self.model.vision.resolution,) * 2
        gray, jitter, mix = jax.random.split(jax.random.fold_in(jax.random.key(self.config.seed), step), 3)
        strength = augment.color_jitter
        of_groups = mixing.draw(mix, batch_size // self.config.mix.group, size, self.config.mix)
        pairs = self.config.mix.group // mixing.partners(self.config.mix.group)  # of a group
        return Draws(
            jax.random.bernoulli(gray, augment.grayscale, (batch_size,)),
            jax.random.uniform(jitter, (batch_size, 3), minval=1 - strength, maxval=1 + strength),
            jax.tree.map(lambda of_group: jnp.repeat(of_group, pairs, axis=0), of_groups),
        )

    def inputs(self, video: jax.Array, label: jax.Array, classes: int, draws: Draws) -> tuple[jax.Array, jax.Array]:
        """What the network sees: pixels uint8 [B, T, H, W, 3] and labels int32 [B] -> normalised clips and targets."""
        pixels = video.astype(jnp.float32)
        if self.config.augment.color_jitter > 0:
            pixels = color_jitter(pixels, draws.jitter)
        if self.config.augment.grayscale > 0:
            pixels = grayscale(pixels, draws.gray)
        clips = normalize(pixels, self.model.dtype)
        return mixing.apply(clips, smooth_labels(label, classes, self.config.mix.label_smoothing), draws.mix)

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
            the loss or the gradient is not finite: then parameters and optimizer state stay as they were).
        """
        # Drawn in part by each device, the draws would have to wait for each other; the network's parameters, where
        # their state is spread, are small beside the clips that would travel in their place.
        draws, used = self._alike((self.draw(state.step, batch["video"].shape[0]), state.params))
        parts = (batch["video"], batch["label"], draws)
        parts = jax.tree.map(self._split, parts)

        def loss_of(params: dict, part: tuple) -> tuple[jax.Array, jax.Array]:
            video, label, draws = part
            clips, targets = self.inputs(video, label, text.shape[0], draws)
            logits = self.model.logits(params, frozen, text, clips)
            hits = (jnp.argmax(logits, axis=-1) == label).astype(jnp.float32)
            return jnp.mean(soft_cross_entropy(logits, targets)), jnp.mean(hits)

        def add_part(total: tuple, part: tuple) -> tuple[tuple, None]:
            return jax.tree.map(jnp.add, total, jax.value_and_grad(loss_of, has_aux=True)(used, part)), None

        if self.config.accumulate == 1:
            whole = jax.tree.map(lambda x: x[0], parts)
            (loss, accuracy), grads = jax.value_and_grad(loss_of, has_aux=True)(used, whole)
        else:
            zero = jnp.zeros(())
            nothing = ((zero, zero), jax.tree.map(jnp.zeros_like, state.params))
            total, _ = jax.lax.scan(add_part, nothing, parts)
            (loss, accuracy), grads = jax.tree.map(lambda x: x / self.config.accumulate, total)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        state = self._update(state, grads, finite)
        skipped = 1.0 - finite.astype(jnp.float32)
        return state, {"loss": loss, "grad_norm": norm, "accuracy": accuracy, "skipped": skipped}

    def _alike(self, tree: object) -> object:
        return tree if self.everywhere is None else jax.lax.with_sharding_constraint(tree, self.everywhere)

    def _split(self, rows: jax.Array) -> jax.Array:
        """[rows, ...] -> [accumulate, rows / accumulate, ...]: whole pairs, rows of every device in each."""
        pairs = self.config.batch_size // mixing.partners(self.config.mix.group)
        paired = rows.reshape(pairs // self.config.accumulate, self.config.accumulate, -1, *rows.shape[1:])
        paired = paired.swapaxes(0, 1)  # [accumulate, pairs a part, clips or draws of a pair, ...]
        return paired.reshape(self.config.accumulate, -1, *rows.shape[1:])

    def _update(self, state: TrainState, grads: dict, finite: jax.Array) -> TrainState:
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            decay = self.config.ema
            ema = jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, ema, params)
        made = (params, opt_state[:-1], ema)
        kept = (state.params, state.opt_state[:-1], state.ema)
        params, moments, ema = jax.tree.map(lambda new, old: jnp.where(finite, new, old), made, kept)
        # The schedule, the chain's last link, goes on over a step that was dropped.
        return TrainState(state.step + 1, params, (*moments, opt_state[-1]), ema)


def eval_step(
    model: VideoModel, fuse: float, params: dict, frozen: dict, text: jax.Array, video: jax.Array
) -> jax.Array:
    """Scores of whole videos.

    Args:
        model: static.
        fuse: static; share of plain CLIP in the logits (see VideoModel.logits).
        params: of the DiST network.
        frozen: {"vision", "logit_scale"} of CLIP.
        text: features of the class texts, float32 [K, E].
        video: uint8 [B, V, T, H, W, 3], V views of each.

    Returns:
        float32 [B, K]: softmax scores, summed over the views.
    """

    def one_view(total: jax.Array, view: jax.Array) -> tuple[jax.Array, None]:
        logits = model.logits(params, frozen, text, normalize(view, model.dtype), fuse)
        return total + jax.nn.softmax(logits), None

    scores, _ = jax.lax.scan(one_view, jnp.zeros((video.shape[0], text.shape[0])), video.swapaxes(0, 1))
    return scores
