"""The interface of a frozen image-text encoder.

A backbone object holds sizes only. Its parameters are an argument of every method: one frozen tree with the entries
"vision", "text" (absent if the weights have no text tower), "logit_scale" and, if the backbone adds one to its logits,
"logit_bias". `docs/extending.md` shows how to add a backbone.
"""

import abc
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh


class Backbone(abc.ABC):
    """A frozen image-text encoder. Implementations are hashable: they are static arguments of jitted functions."""

    dtype: jnp.dtype  # of the image tower's arithmetic

    @property
    @abc.abstractmethod
    def num_layers(self) -> int:
        """L, blocks of the image tower."""

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """D, width of the image tower."""

    @property
    @abc.abstractmethod
    def embed_dim(self) -> int:
        """E, size of the joint image-text embedding."""

    @property
    @abc.abstractmethod
    def patch_size(self) -> int:
        """Height and width of a patch, pixels."""

    @property
    @abc.abstractmethod
    def resolution(self) -> int:
        """Height and width of a frame, pixels."""

    @property
    @abc.abstractmethod
    def num_prefix_tokens(self) -> int:
        """Tokens before the patch tokens: 1 for a class token."""

    @property
    @abc.abstractmethod
    def mean(self) -> tuple[float, float, float]:
        """Channel means of the pixels 0..1 that the tower was trained on."""

    @property
    @abc.abstractmethod
    def std(self) -> tuple[float, float, float]:
        """Channel standard deviations of the pixels 0..1 that the tower was trained on."""

    @property
    def num_patches(self) -> int:
        """N, patches of a frame."""
        return (self.resolution // self.patch_size) ** 2

    @abc.abstractmethod
    def features(self, params: dict, frames: jax.Array, layers: Sequence[int], mesh: Mesh | None = None) -> jax.Array:
        """The residual stream after the chosen blocks; later blocks are not computed.

        Args:
            params: the frozen tree.
            frames: normalised, float [B, S, H, W, 3].
            layers: increasing block numbers, counted from 0.
            mesh: the devices that share the clips (axes data and fsdp) and the heads (axis tensor); None: XLA
              divides the program among its devices, without kernels of our own.

        Returns:
            [len(layers), S, B, num_prefix_tokens + N, D] in `dtype`, prefix tokens first.
        """

    @abc.abstractmethod
    def frame_summary(self, params: dict, last: jax.Array) -> jax.Array:
        """One vector per frame from the stream after a block: [..., num_prefix_tokens + N, D] -> [..., D]."""

    @abc.abstractmethod
    def frame_embeddings(self, params: dict, last: jax.Array) -> jax.Array:
        """Image embeddings from the stream after the last block: [..., num_prefix_tokens + N, D] -> float32 [..., E].

        Not normalised.
        """

    @abc.abstractmethod
    def text_embeddings(self, params: dict, tokens: jax.Array) -> jax.Array:
        """Token ids int32 [K, context_length] -> text embeddings float32 [K, E], not normalised."""

    @abc.abstractmethod
    def first_layers(self, params: dict, num_layers: int) -> tuple["Backbone", dict]:
        """The same backbone and frozen tree without the blocks after the first `num_layers`."""
