"""A ring buffer of backbone features on the device. Windows that share a frame share its features."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dist_jax.distributed import sharding
from dist_jax.models.layers import matmul_precision
from dist_jax.models.video_model import VideoModel


class Capacity(NamedTuple):
    """Fixed sizes of a FrameStore: each program is compiled once."""

    slots: int  # frames whose features are stored
    frame_batch: int  # frames per call of the backbone
    window_batch: int  # windows per call of the network


class Classifier(NamedTuple):
    """A model on its devices and the classes that it predicts."""

    model: VideoModel
    params: dict  # of the network
    frozen: dict
    text: jax.Array | None  # text features of K classes, float32 [K, E]; None: the network has its own classes
    zero_shot_weight: float
    multi_label: bool  # probabilities are sigmoids


class FrameStore:
    """Features of the latest frames, by slot number 0 to `slots` - 1.

    Args:
        classifier: the model; on several devices, each of them computes everything.
        mesh: its devices.
        dtype: of the arithmetic.
        capacity: fixed sizes.
    """

    def __init__(self, classifier: Classifier, mesh: Mesh, dtype: jnp.dtype, capacity: Capacity) -> None:
        self._classifier, self._dtype, self._capacity = classifier, dtype, capacity
        self._sharding = sharding.replicated(mesh)
        model = classifier.model
        self._shape = (model.dist.num_frames, model.backbone.resolution, model.backbone.resolution, 3)
        self._num_sparse = model.dist.num_sparse_frames
        frames = jax.ShapeDtypeStruct((capacity.frame_batch, 1, *self._shape[1:]), jnp.uint8)
        features = jax.eval_shape(partial(_features, model, classifier.zero_shot_weight), classifier.frozen, frames)
        ring_shape = (features.shape[0], capacity.slots, *features.shape[2:])
        self._ring = jax.device_put(jnp.zeros(ring_shape, features.dtype), self._sharding)  # [L, slots, 1+N, D]

    @property
    def capacity(self) -> Capacity:
        """The fixed sizes."""
        return self._capacity

    def compile(self) -> None:
        """Compiles both programs, so that the first frames do not wait for the compiler."""
        self.encode(np.zeros((1, *self._shape[1:]), np.uint8), [self._capacity.slots])  # no such slot: not stored
        jax.block_until_ready(self.classify(np.zeros((1, *self._shape), np.uint8), [[0] * self._num_sparse]))

    def encode(self, frames: np.ndarray, slots: list[int]) -> None:
        """Stores the features of frames, replacing those in `slots`.

        Args:
            frames: pixels, uint8 [n, H, W, 3], 1 <= n <= `frame_batch`.
            slots: n different slot numbers.
        """
        padding = self._capacity.frame_batch - len(frames)
        frames = np.concatenate([frames, np.zeros((padding, *frames.shape[1:]), np.uint8)])
        padded_slots = np.asarray([*slots, *[self._capacity.slots] * padding], np.int32)
        c = self._classifier
        with matmul_precision(self._dtype):
            self._ring = _encode(c.model, c.zero_shot_weight, c.frozen, self._ring, *self._put(frames, padded_slots))

    def classify(self, videos: np.ndarray, slots: list[list[int]]) -> jax.Array:
        """Probabilities of windows, as `Predictor.classify` of their frames: float32 [n, K]. See `logits`."""
        logits = self.logits(videos, slots)
        return jax.nn.sigmoid(logits) if self._classifier.multi_label else jax.nn.softmax(logits)

    def logits(self, videos: np.ndarray, slots: list[list[int]]) -> jax.Array:
        """Logits of windows, as `Predictor.logits` of their frames.

        Args:
            videos: pixels of all frames of the windows, uint8 [n, T, H, W, 3], 1 <= n <= `window_batch`.
            slots: of the features of the S frames of each window.

        Returns:
            float32 [n, K].
        """
        padding = self._capacity.window_batch - len(videos)
        padded_videos = np.concatenate([videos, np.zeros((padding, *videos.shape[1:]), np.uint8)])
        padded_slots = np.asarray([*slots, *[[0] * self._num_sparse] * padding], np.int32)
        c = self._classifier
        with matmul_precision(self._dtype):
            logits = _classify(
                c.model,
                c.zero_shot_weight,
                c.params,
                c.frozen,
                c.text,
                self._ring,
                *self._put(padded_videos, padded_slots),
            )
        return logits[: len(videos)]

    def _put(self, *arrays: np.ndarray) -> tuple[jax.Array, ...]:
        return jax.device_put(arrays, self._sharding)


def _features(model: VideoModel, zero_shot_weight: float, frozen: dict, frames: jax.Array) -> jax.Array:
    """Pixels uint8 [n, 1, H, W, 3] -> [L, n, 1+N, D]."""
    layers = model.dist.layers if model.has_own_classes else model.mixed_layers(zero_shot_weight)
    return model.features(frozen, model.normalize(frames), layers)[:, 0]  # a clip of one frame: S = 1


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _encode(
    model: VideoModel, zero_shot_weight: float, frozen: dict, ring: jax.Array, frames: jax.Array, slots: jax.Array
) -> jax.Array:
    return ring.at[:, slots].set(_features(model, zero_shot_weight, frozen, frames[:, None]), mode="drop")


@partial(jax.jit, static_argnums=(0, 1))
def _classify(
    model: VideoModel,
    zero_shot_weight: float,
    params: dict,
    frozen: dict,
    text: jax.Array | None,
    ring: jax.Array,
    videos: jax.Array,
    slots: jax.Array,
) -> jax.Array:
    features = ring[:, slots.T]  # [L, S, B, 1+N, D]
    videos = model.normalize(videos)
    if text is None:
        return model.embed_features(params, frozen, features, videos)
    (label,) = model.label_names
    return model.mixed_logits_of_features(params, frozen, {label: text}, features, videos, zero_shot_weight)[label]
