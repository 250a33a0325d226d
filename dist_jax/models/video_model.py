"""The complete classifier: frames -> frozen backbone -> trained network -> logits of each label.

Text classifies the network's embeddings (cosine with the text features of the class names), or the network has its own
linear classifier. Plain logits need no trained network: they are those of the backbone as an image-text model.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dist_jax.distributed.sharding import over_clips
from dist_jax.models.backbones.base import Backbone
from dist_jax.models.dist_network import DistConfig, input_shapes
from dist_jax.models.layers import last_axis, similarity_logits, unit
from dist_jax.models.networks import NETWORKS, NO_NETWORK, has_own_classes
from dist_jax.models.preprocess import normalize

TextFeatures = Mapping[str, jax.Array]  # label name -> text features of its class names, float32 [K, E]
Logits = dict[str, jax.Array]  # label name -> float32 [B, K]


@dataclasses.dataclass(frozen=True)
class VideoModel:
    """A frozen backbone and a trained network. Parameters are arguments; `frozen` and `params` are never one tree.

    `frozen` is the backbone's tree without "text"; `params` are the network's. A model without network (NO_NETWORK) is
    the backbone as an image-text model; its `params` are {}.
    """

    backbone: Backbone
    dist: DistConfig
    dtype: jnp.dtype = jnp.float32  # of the network's arithmetic
    remat: str = "elementwise"  # see DistNetwork
    network_name: str = "dist"  # key of NETWORKS, or NO_NETWORK
    mesh: Mesh | None = None  # the devices that share the clips of a batch; None: one device
    label_names: tuple[str, ...] = ("label",)  # in the order of the network's outputs

    @property
    def network(self) -> nn.Module:
        """The trainable module."""
        device_kind = "" if self.mesh is None else self.mesh.devices.flat[0].device_kind
        return NETWORKS[self.network_name](self.dist, self.dtype, self.remat, device_kind)

    @property
    def has_own_classes(self) -> bool:
        """True if the network has its own linear classifier: text features then give only the numbers of classes."""
        return has_own_classes(self.network_name)

    def init(self, key: jax.Array) -> dict:
        """Initial parameters of the network."""
        if self.network_name == NO_NETWORK:
            return {}
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
        return jax.lax.stop_gradient(self.backbone.features(frozen, frames, layers, self.mesh))

    def embed(self, params: dict, frozen: dict, video: jax.Array) -> jax.Array:
        """Output of the network for normalised clips [B, T, H, W, 3]: float32 [B, dist.output_dim].

        These are video embeddings, not normalised, or logits if the network has its own classifier; those of all labels
        are concatenated. Without network: the mean of the unit embeddings of the S frames, [B, E].
        """
        if self.network_name == NO_NETWORK:
            return jnp.mean(unit(self._frame_embeddings(frozen, video)), axis=0)
        return self.embed_features(params, frozen, self.features(frozen, video), video)

    def embed_features(self, params: dict, frozen: dict, features: jax.Array, video: jax.Array) -> jax.Array:
        """Output of the network, as `embed`, for features that exist already.

        Args:
            params: the network's.
            frozen: see the class.
            features: of the blocks `dist.layers`, as `features` returns them, [L_selected, S, B, 1+N, D].
            video: normalised frames of the same clips [B, T, H, W, 3].
        """
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

    def attention(self, params: dict, frozen: dict, video: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Attention weights of the DiST network's pooling layers for normalised clips [B, T, H, W, 3].

        Each is the mean over the attention heads. Only the network "dist" has pooling layers.

        Returns:
            Of the video query over the S frames: float32 [B, P, S]; a row sums to 1.
            Of the spatial query over the tokens of each frame: float32 [B, P, S, 1+N]; a row sums to 1.
        """
        features = self.features(frozen, video)
        summary = self.backbone.frame_summary(frozen, features[-1])
        _, sown = self.network.apply({"params": params}, features, summary, video, mutable="intermediates")
        layers = sown["intermediates"]["pooling"]
        (tokens,) = layers["spatial"]["attention"]["weights"]  # [P, heads, 1+N, S, B]
        (frames,) = layers["temporal"]["attention"]["weights"]  # [P, B, heads, 1, S]
        return jnp.mean(frames[:, :, :, 0], axis=2).swapaxes(0, 1), jnp.mean(tokens, axis=1).transpose(3, 0, 2, 1)

    def logits(self, params: dict, frozen: dict, text_features: TextFeatures, video: jax.Array) -> Logits:
        """Class logits of the trained network.

        Args:
            params: the network's.
            frozen: see the class.
            text_features: of all `label_names`. A network with its own classifier uses only their sizes.
            video: normalised frames [B, T, H, W, 3].

        Raises:
            ValueError: the numbers of classes are not those of the network's classifier.
        """
        return self._classify(frozen, self.embed(params, frozen, video), text_features)

    def plain_logits(self, frozen: dict, text_features: TextFeatures, video: jax.Array) -> Logits:
        """Class logits of the backbone as an image-text model: the mean of its logits over the S frames.

        Arguments as in `logits`.
        """
        return self._plain(frozen, self._frame_embeddings(frozen, video), text_features)

    def both_logits(
        self, params: dict, frozen: dict, text_features: TextFeatures, video: jax.Array
    ) -> tuple[Logits, Logits]:
        """`logits` and `plain_logits` from one pass of the backbone. Arguments as in `logits`.

        Raises:
            ValueError: text does not classify the network's output.
        """
        self._check_text_classifies()
        features = self.features(frozen, video, self.mixed_layers(0.5))
        embedding = self.embed_features(params, frozen, features[: len(self.dist.layers)], video)
        frames = self.backbone.frame_embeddings(frozen, features[-1])  # [S, B, E]
        return self._classify(frozen, embedding, text_features), self._plain(frozen, frames, text_features)

    def mixed_logits(
        self, params: dict, frozen: dict, text_features: TextFeatures, video: jax.Array, zero_shot_weight: float
    ) -> Logits:
        """(1 - zero_shot_weight) * `logits` + zero_shot_weight * `plain_logits`; computes only what has a weight.

        Without network, the plain logits for any weight.

        Args:
            params: the network's.
            frozen: see the class.
            text_features: as in `logits`.
            video: normalised frames [B, T, H, W, 3].
            zero_shot_weight: 0 to 1; 0.5 in the paper's zero-shot protocol.

        Raises:
            ValueError: a weight above 0 for a network with its own classifier.
        """
        features = self.features(frozen, video, self.mixed_layers(zero_shot_weight))
        return self.mixed_logits_of_features(params, frozen, text_features, features, video, zero_shot_weight)

    def mixed_layers(self, zero_shot_weight: float) -> tuple[int, ...]:
        """The backbone blocks that `mixed_logits` reads, increasing. Arguments and errors as there."""
        last = self.backbone.num_layers - 1
        if self.network_name == NO_NETWORK:
            return (last,)
        if zero_shot_weight == 0.0:
            return self.dist.layers
        self._check_text_classifies()
        if zero_shot_weight == 1.0:
            return (last,)
        return self.dist.layers if self.dist.layers[-1] == last else (*self.dist.layers, last)

    def mixed_logits_of_features(
        self,
        params: dict,
        frozen: dict,
        text_features: TextFeatures,
        features: jax.Array,
        video: jax.Array,
        zero_shot_weight: float,
    ) -> Logits:
        """`mixed_logits` of features that exist already.

        Args:
            params: the network's.
            frozen: see the class.
            text_features: as in `logits`.
            features: of the blocks `mixed_layers(zero_shot_weight)`, [L_selected, S, B, 1+N, D].
            video: normalised frames of the same clips [B, T, H, W, 3].
            zero_shot_weight: as in `mixed_logits`.
        """
        has_network = self.network_name != NO_NETWORK
        embedding = frames = None
        if has_network and zero_shot_weight < 1.0:
            embedding = self.embed_features(params, frozen, features[: len(self.dist.layers)], video)
        if not has_network or zero_shot_weight > 0.0:
            frames = self.backbone.frame_embeddings(frozen, features[-1])
        return self.mixed_logits_of_embeddings(frozen, text_features, embedding, frames, zero_shot_weight)

    def mixed_logits_of_embeddings(
        self,
        frozen: dict,
        text_features: TextFeatures,
        embedding: jax.Array | None,
        frames: jax.Array | None,
        zero_shot_weight: float,
    ) -> Logits:
        """`mixed_logits` of embeddings that exist already.

        Args:
            frozen: see the class.
            text_features: as in `logits`.
            embedding: of `embed`, [B, dist.output_dim]; None: only `frames` count.
            frames: of the backbone's frame embeddings, [S, B, E]; None: only `embedding` counts.
            zero_shot_weight: of `frames`, if both are given.
        """
        trained = {} if embedding is None else self._classify(frozen, embedding, text_features)
        plain = {} if frames is None else self._plain(frozen, frames, text_features)
        return self.mix(trained, plain, zero_shot_weight) if trained and plain else trained or plain

    def similarity(self, frozen: dict, embedding: jax.Array, text_features: jax.Array) -> jax.Array:
        """Embeddings [..., E] and text features [K, E] -> logits float32 [..., K].

        exp(logit_scale) * cosine, plus the backbone's logit_bias if it has one. The bias is the same for all classes:
        it changes the sigmoid of several labels, not the softmax.
        """
        logits = similarity_logits(embedding, text_features, frozen["logit_scale"])
        if "logit_bias" not in frozen:
            return logits
        return logits + last_axis(frozen["logit_bias"].astype(jnp.float32), logits)

    def _check_text_classifies(self) -> None:
        if self.network_name == NO_NETWORK or self.has_own_classes:
            raise ValueError(f"network {self.network_name!r} has no logits that can be mixed with plain logits")

    def mix(self, trained: Logits, plain: Logits, zero_shot_weight: float) -> Logits:
        """(1 - zero_shot_weight) * trained + zero_shot_weight * plain, for each label."""
        return {
            name: (1.0 - zero_shot_weight) * trained[name] + zero_shot_weight * plain[name] for name in self.label_names
        }

    def _classify(self, frozen: dict, output: jax.Array, text_features: TextFeatures) -> Logits:
        """The network's output float32 [B, output_dim] -> logits."""
        if self.has_own_classes:
            sizes = [text_features[name].shape[0] for name in self.label_names]
            return dict(zip(self.label_names, _split(output, sizes), strict=True))
        embeddings = _split(output, [self.dist.embed_dim] * len(self.label_names))
        return {
            name: self.similarity(frozen, embedding, text_features[name])
            for name, embedding in zip(self.label_names, embeddings, strict=True)
        }

    def _frame_embeddings(self, frozen: dict, video: jax.Array) -> jax.Array:
        """The backbone's image embeddings of the S frames: [B, T, H, W, 3] -> float32 [S, B, E]."""
        (last,) = self.features(frozen, video, (self.backbone.num_layers - 1,))  # [S, B, 1+N, D]
        return self.backbone.frame_embeddings(frozen, last)

    def _plain(self, frozen: dict, frames: jax.Array, text_features: TextFeatures) -> Logits:
        """Frame embeddings [S, B, E] -> logits, the mean over the frames."""
        frames = unit(frames)
        return {
            name: jnp.mean(self.similarity(frozen, frames, text_features[name]), axis=0) for name in self.label_names
        }


def _split(output: jax.Array, sizes: list[int]) -> list[jax.Array]:
    """[B, sum of sizes] -> [B, size] for each size."""
    if sum(sizes) != output.shape[-1]:
        raise ValueError(f"the network has {output.shape[-1]} outputs; expected {' + '.join(map(str, sizes))}")
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [output[..., end - size : end] for size, end in zip(sizes, ends, strict=True)]
