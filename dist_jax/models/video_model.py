"""The complete classifier: frames -> frozen backbone -> trained network -> cosine with text features -> logits."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dist_jax.distributed.sharding import num_batch_shards, over_clips
from dist_jax.models.backbones.base import Backbone
from dist_jax.models.dist_network import DistConfig, input_shapes
from dist_jax.models.layers import similarity_logits, unit
from dist_jax.models.networks import NETWORKS
from dist_jax.models.preprocess import normalize


@dataclasses.dataclass(frozen=True)
class VideoModel:
    """A frozen backbone and a trained network. Parameters are arguments; `frozen` and `params` are never one tree.

    `frozen` is the backbone's tree ("vision", "logit_scale": float32 []); `params` are the network's.
    """

    backbone: Backbone
    dist: DistConfig
    dtype: jnp.dtype = jnp.float32  # of the network's arithmetic
    remat: str = "elementwise"  # see DistNetwork
    network_name: str = "dist"  # key of NETWORKS
    mesh: Mesh | None = None  # the devices that share the clips of a batch; None: one device

    @property
    def network(self) -> nn.Module:
        """The trainable module."""
        return NETWORKS[self.network_name](self.dist, self.dtype, self.remat)

    def init(self, key: jax.Array) -> dict:
        """Initial parameters of the network."""
        num_tokens = self.backbone.num_prefix_tokens + self.backbone.num_patches
        shapes = input_shapes(self.dist, num_tokens, self.backbone.resolution)
        return self.network.init(key, *(jnp.zeros(shape.shape) for shape in shapes))["params"]

    def normalize(self, pixels: jax.Array) -> jax.Array:
        """Pixels 0..255, uint8 or float [..., 3] -> normalised by the backbone's statistics, in `dtype`."""
        return normalize(pixels, self.backbone.mean, self.backbone.std, self.dtype)

    def features(self, frozen: dict, video: jax.Array, layers: tuple[int, ...] | None = None) -> jax.Array:
        """The frozen backbone's features of every alpha-th frame, under stop_gradient.

        Args:
            frozen: see the class.
            video: normalised frames, float [B, T, H, W, 3].
            layers: increasing block numbers; None: `dist.layers`.

        Returns:
            [L_selected, S, B, 1+N, D] in the backbone's dtype.
        """
        layers = self.dist.layers if layers is None else layers
        frames = video[:, :: self.dist.alpha]  # [B, S, H, W, 3]
        frozen, frames = jax.lax.stop_gradient((frozen, frames))
        num_shards = 1 if self.mesh is None else num_batch_shards(self.mesh)
        return jax.lax.stop_gradient(self.backbone.features(frozen, frames, layers, num_shards))

    def embed(self, params: dict, frozen: dict, video: jax.Array) -> jax.Array:
        """Normalised clips [B, T, H, W, 3] -> video embeddings float32 [B, E], not normalised."""
        return self._embed_features(params, frozen, self.features(frozen, video), video)

    def logits(
        self, params: dict, frozen: dict, text_features: jax.Array, video: jax.Array, zero_shot_weight: float = 0.0
    ) -> jax.Array:
        """Class logits of clips.

        Args:
            params: the network's.
            frozen: see the class.
            text_features: of the class names, float32 [K, E].
            video: normalised frames [B, T, H, W, 3].
            zero_shot_weight: weight of the backbone's own logits (the mean of its per-frame logits over the S frames),
              0 to 1; 0.5 in the paper's zero-shot protocol.

        Returns:
            float32 [B, K].
        """
        if zero_shot_weight == 0.0:
            return self.similarity(frozen, self.embed(params, frozen, video), text_features)
        last = self.backbone.num_layers - 1
        layers = self.dist.layers if self.dist.layers[-1] == last else (*self.dist.layers, last)
        features = self.features(frozen, video, layers)
        embedding = self._embed_features(params, frozen, features[: len(self.dist.layers)], video)
        trained = self.similarity(frozen, embedding, text_features)
        frames = self.backbone.frame_embeddings(frozen, features[-1])  # [S, B, E]
        plain = self.similarity(frozen, unit(frames), text_features)  # [S, B, K]
        return (1.0 - zero_shot_weight) * trained + zero_shot_weight * jnp.mean(plain, axis=0)

    def similarity(self, frozen: dict, embedding: jax.Array, text_features: jax.Array) -> jax.Array:
        """Embeddings [..., E] and text features [K, E] -> logits float32 [..., K]: exp(logit_scale) * cosine."""
        return similarity_logits(embedding, text_features, frozen["logit_scale"])

    def _embed_features(self, params: dict, frozen: dict, features: jax.Array, video: jax.Array) -> jax.Array:
        # Without the barrier XLA copies all features twice: once for the network, once for the summary.
        features = jax.lax.optimization_barrier(features)  # [L_selected, S, B, 1+N, D]
        summary = self.backbone.frame_summary(frozen, features[-1])  # [S, B, D]

        def embed(params: dict, features: jax.Array, summary: jax.Array, video: jax.Array) -> jax.Array:
            return self.network.apply({"params": params}, features, summary, video)

        if self.mesh is None:
            return embed(params, features, summary, video)
        # The devices sum the gradients of the kernels in the dtype of the arithmetic.
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf.astype(self.dtype) if path[-1].key == "kernel" else leaf, params
        )
        return over_clips(embed, self.mesh, clip_axes=(2, 1, 0))(params, features, summary, video)
