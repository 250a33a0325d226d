"""The whole classifier: frames -> frozen CLIP -> features -> DiST network -> cosine with the class texts -> logits."""

import dataclasses

import jax
import jax.numpy as jnp

from dist_jax.models.backbones.clip_vision import ClipVision, VisionConfig, first_blocks
from dist_jax.models.dist_network import DistConfig, DistNetwork
from dist_jax.models.layers import similarity_logits, unit


@dataclasses.dataclass(frozen=True)
class VideoModel:
    """A frozen image tower beside a DiST network. Parameters are passed in: `frozen` and `params` are never one tree.

    `frozen` is {"vision": the image tower's, "logit_scale": float32 []}; `params` are the DiST network's.
    """

    vision: VisionConfig
    dist: DistConfig
    clip_dtype: jnp.dtype = jnp.float32  # of the tower's arithmetic
    dtype: jnp.dtype = jnp.float32  # of the DiST network's arithmetic
    remat: str = "none"  # see DistNetwork

    @property
    def network(self) -> DistNetwork:
        """The trainable module."""
        return DistNetwork(self.dist, self.dtype, self.remat)

    def features(self, frozen: dict, video: jax.Array, blocks: tuple[int, ...] | None = None) -> jax.Array:
        """What the frozen tower makes of every alpha-th frame, under stop_gradient.

        Args:
            frozen: see the class.
            video: normalised frames, float [B, T, H, W, 3].
            blocks: increasing numbers of the CLIP blocks to read; by default the selected ones.

        Returns:
            [L_selected, B, S, 1+N, D] in `clip_dtype`.
        """
        blocks = self.dist.layers if blocks is None else blocks
        config, tower = first_blocks(self.vision, frozen["vision"], blocks[-1] + 1)
        frames = video[:, :: self.dist.alpha]  # [B, S, H, W, 3]
        b, s = frames.shape[:2]
        tower, frames = jax.lax.stop_gradient((tower, frames))
        module = ClipVision(config, self.clip_dtype)
        features = module.apply(
            {"params": tower}, frames.reshape(b * s, *frames.shape[2:]), blocks, method="features"
        )  # [L_selected, B*S, 1+N, D]
        return jax.lax.stop_gradient(features.reshape(len(blocks), b, s, *features.shape[2:]))

    def embed(self, params: dict, frozen: dict, video: jax.Array) -> jax.Array:
        """Normalised clips [B, T, H, W, 3] -> video embeddings float32 [B, E], not normalised."""
        return self.network.apply({"params": params}, self.features(frozen, video), video)

    def logits(
        self, params: dict, frozen: dict, text: jax.Array, video: jax.Array, zero_shot_weight: float = 0.0
    ) -> jax.Array:
        """Class logits of clips.

        Args:
            params: the DiST network's.
            frozen: see the class.
            text: class texts in the joint space, float32 [K, E].
            video: normalised frames [B, T, H, W, 3].
            zero_shot_weight: weight of plain CLIP in the logits, 0 to 1: the mean over the S frames of its per-frame
              logits (the paper's zero-shot setting is 0.5).

        Returns:
            float32 [B, K].
        """
        if zero_shot_weight == 0.0:
            return similarity_logits(self.embed(params, frozen, video), text, frozen["logit_scale"])
        last = self.vision.num_layers - 1
        blocks = self.dist.layers if self.dist.layers[-1] == last else (*self.dist.layers, last)
        features = self.features(frozen, video, blocks)
        embedding = self.network.apply({"params": params}, features[: len(self.dist.layers)], video)
        own = similarity_logits(embedding, text, frozen["logit_scale"])
        plain = similarity_logits(self._frame_embeddings(frozen, features[-1]), text, frozen["logit_scale"])
        return (1.0 - zero_shot_weight) * own + zero_shot_weight * jnp.mean(plain, axis=1)

    def _frame_embeddings(self, frozen: dict, last: jax.Array) -> jax.Array:
        """The last block's stream [B, S, 1+N, D] -> CLIP's embedding of each frame, unit length, float32 [B, S, E]."""
        module = ClipVision(self.vision, self.clip_dtype)
        return unit(module.apply({"params": frozen["vision"]}, last[:, :, 0], method="embed"))
