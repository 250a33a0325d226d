"""The Python API of a trained model: `dist_jax.load(path)` returns a `Predictor`."""

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dist_jax.distributed import sharding
from dist_jax.distributed.mesh import AXES, make_mesh
from dist_jax.errors import UserError
from dist_jax.models.layers import matmul_precision, unit
from dist_jax.models.quantization import check_quantize
from dist_jax.models.video_model import VideoModel
from dist_jax.typing import PyTree
from dist_jax.weights import frozen
from dist_jax.weights.clip import Texts
from dist_jax.weights.init_from import adapt
from dist_jax.weights.model_directory import EvalProtocol, Model
from dist_jax.weights.model_files import read_model, read_quantize


def load(
    path: str | Path,
    dtype: jnp.dtype | None = None,
    mesh: Mesh | None = None,
    clip: str = "",
    quantize: str | None = None,
) -> "Predictor":
    """Loads a trained model.

    Args:
        path: a model directory (`python -m dist_jax.convert`), a training workdir or a published .pyth file.
        dtype: float32 (default; full precision on every device) or bfloat16 (faster on accelerators). Applies to the
          frozen image tower's parameters and to all computation on videos. Text embeddings are always computed in
          float32, and all results except `features` are float32.
        mesh: devices, from `distributed.mesh.make_mesh`; clips are split over the axes data and fsdp. Default: the
          first device.
        clip: CLIP weights to use instead of the path stored in the model; same values as config.backbone.weights.
        quantize: as config.backbone.quantize: "int8", "fp8", or "" for a float image tower. Default: as in the training
          of the model; a published file has a float tower.

    Raises:
        UserError: no model at `path`, damaged files, or an unsupported mesh, dtype or quantize.
    """
    dtype = jnp.dtype(jnp.float32 if dtype is None else dtype)
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise UserError(f"dtype={dtype}: must be float32 or bfloat16")
    if mesh is None:
        mesh = make_mesh(dict.fromkeys(AXES, 1), jax.local_devices()[:1])
    elif set(mesh.axis_names) != set(AXES):
        raise UserError(f"mesh has the axes {mesh.axis_names}; make it with dist_jax.distributed.mesh.make_mesh")
    quantize = read_quantize(path) if quantize is None else quantize
    check_quantize("quantize", quantize)
    model = read_model(path, clip=clip, place=partial(_place, mesh, dtype, quantize))
    return Predictor(dataclasses.replace(model, quantize=quantize), mesh, dtype)


def _place(mesh: Mesh, dtype: jnp.dtype, quantize: str, path: str, value: np.ndarray) -> PyTree:
    if path.startswith("clip/"):
        return frozen.place(mesh, dtype, quantize, path.removeprefix("clip/"), value)
    replicate = path == "text_features"
    array_sharding = sharding.replicated(mesh) if replicate else sharding.leaf_sharding(mesh, path, value.shape)
    return sharding.place(np.asarray(value).astype(np.float32), array_sharding)


class Predictor:
    """A trained model on its devices. Every method compiles once per input shape.

    Symbols: B clips, T frames per clip, S = T / alpha frames for CLIP, N patches per frame, L_selected CLIP blocks that
    the network reads, D CLIP width, E embedding size, K texts. Methods raise UserError for invalid inputs.
    """

    def __init__(self, model: Model, mesh: Mesh, dtype: jnp.dtype) -> None:
        """`dist_jax.load` calls this constructor. The parameters of `model` are on `mesh`."""
        self._model, self._mesh, self._dtype = model, mesh, dtype
        self._video_model = VideoModel(model.clip_model.backbone(dtype, model.quantize), model.dist, dtype)
        self._frozen = {name: model.clip_model.params[name] for name in ("vision", "logit_scale")}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes of the training data; empty if the model has none."""
        return self._model.class_names

    @property
    def num_frames(self) -> int:
        """T, frames per clip."""
        return self._model.dist.num_frames

    @property
    def resolution(self) -> int:
        """H = W, height and width of a frame in pixels."""
        return self._model.clip_model.vision.resolution

    @property
    def eval_protocol(self) -> EvalProtocol:
        """How clips are sampled from a video at test time."""
        return self._model.eval_protocol

    def encode_video(self, video: np.ndarray | jax.Array) -> jax.Array:
        """Video embeddings: pixels 0..255, uint8 [B, T, H, W, 3] -> float32 [B, E], unit length."""
        return self._run(_embed, video)

    def features(self, video: np.ndarray | jax.Array) -> jax.Array:
        """Residual stream of the frozen backbone after each selected layer.

        Args:
            video: pixels, uint8 [B, T, H, W, 3].

        Returns:
            [L_selected, B, S, 1+N, D] in the `dtype` of `dist_jax.load`; the class token is first.
        """
        return self._run(_features, video, batch_axis=1)

    def encode_text(self, texts: Texts) -> jax.Array:
        """Text embeddings: strings, or token ids int [K, any length] -> float32 [K, E], unit length.

        No prompt is added, as in training. A text longer than the context is truncated and keeps its end token.
        """
        return self._model.clip_model.encode_texts(texts)

    def logits(
        self, video: np.ndarray | jax.Array, text: np.ndarray | jax.Array, zero_shot_weight: float = 0.0
    ) -> jax.Array:
        """Class logits: exp(logit_scale) * cosine similarity.

        Args:
            video: pixels, uint8 [B, T, H, W, 3].
            text: text features from `encode_text`, float [K, E].
            zero_shot_weight: weight of the plain CLIP logits (mean of the per-frame logits over S frames), 0 to 1.

        Returns:
            float32 [B, K].
        """
        text = jnp.asarray(text)
        embed_dim = self._model.dist.embed_dim
        if text.ndim != 2 or text.shape[1] != embed_dim or not jnp.issubdtype(text.dtype, jnp.floating):
            raise UserError(
                f"text features are {text.dtype}{list(text.shape)}; expected float [K, {embed_dim}], from encode_text"
            )
        if not 0 <= zero_shot_weight <= 1:
            raise UserError(f"zero_shot_weight={zero_shot_weight}: must be between 0 and 1")
        return self._run(partial(_logits, zero_shot_weight=float(zero_shot_weight)), video, text)

    def classify(
        self, video: np.ndarray | jax.Array, texts: Texts | None = None, zero_shot_weight: float = 0.0
    ) -> jax.Array:
        """Class probabilities.

        Args:
            video: pixels, uint8 [B, T, H, W, 3].
            texts: class names, token ids int [K, any length], or text features from `encode_text`, float [K, E].
              Default: the classes of the training data.
            zero_shot_weight: as in `logits`; 0.5 in the paper's zero-shot protocol.

        Returns:
            float32 [B, K]; each row sums to 1.
        """
        return jax.nn.softmax(self.logits(video, self._text_features(texts), zero_shot_weight))

    def for_frames(self, num_frames: int) -> "Predictor":
        """The same model for clips of `num_frames` frames, a multiple of alpha.

        Per-frame tokens and positions are interpolated. Without further training, the accuracy is lower.
        """
        source = self._model.dist
        if num_frames < 1 or num_frames % source.alpha:
            raise UserError(f"num_frames={num_frames}: must be a positive multiple of alpha={source.alpha}")
        target = dataclasses.replace(source, num_frames=num_frames)
        params = jax.tree.map(jnp.asarray, adapt(self._model.dist_params, source, target))
        return Predictor(dataclasses.replace(self._model, dist=target, dist_params=params), self._mesh, self._dtype)

    @cached_property
    def _class_text_features(self) -> jax.Array:
        if self._model.text_features is not None:
            return self._model.text_features
        if not self.class_names:
            raise UserError("the model has no class names; pass texts")
        return self.encode_text(self.class_names)

    def _text_features(self, texts: Texts | None) -> jax.Array:
        if texts is None:
            return self._class_text_features
        if jnp.issubdtype(getattr(texts, "dtype", np.object_), jnp.floating):
            return texts
        return self.encode_text(texts)

    def _run(
        self, function: Callable, video: np.ndarray | jax.Array, *rest: jax.Array, batch_axis: int = 0
    ) -> jax.Array:
        """Runs a jitted function on clips. Pads the batch to a multiple of the devices that share it."""
        self._check_video(video)
        num_clips = len(video)
        padding = -num_clips % sharding.num_batch_shards(self._mesh)
        if padding:
            video = np.concatenate([np.asarray(video), np.zeros((padding, *video.shape[1:]), np.uint8)])
        video = jax.device_put(video, sharding.batch_sharding(self._mesh))
        with matmul_precision(self._dtype):
            result = function(self._video_model, self._model.dist_params, self._frozen, video, *rest)
        return jax.lax.slice_in_dim(result, 0, num_clips, axis=batch_axis) if padding else result

    def _check_video(self, video: np.ndarray | jax.Array) -> None:
        size = self.resolution
        expected = f"pixels 0..255, uint8 [B, {self.num_frames}, {size}, {size}, 3]"
        if not hasattr(video, "dtype"):
            raise UserError(f"video is a {type(video).__name__}; expected an array of {expected}")
        if video.dtype != np.uint8:
            raise UserError(f"video is {video.dtype}{list(video.shape)}; expected {expected}")
        if video.ndim == 5 and video.shape[1] != self.num_frames and video.shape[1] % self._model.dist.alpha == 0:
            expected += f" (for clips of {video.shape[1]} frames use model.for_frames({video.shape[1]}))"
        if video.ndim != 5 or video.shape[0] < 1 or video.shape[1:] != (self.num_frames, size, size, 3):
            raise UserError(f"video has shape {list(video.shape)}; expected {expected}")


@partial(jax.jit, static_argnums=0)
def _embed(model: VideoModel, params: dict, frozen: dict, video: jax.Array) -> jax.Array:
    return unit(model.embed(params, frozen, model.normalize(video)))


@partial(jax.jit, static_argnums=0)
def _features(model: VideoModel, params: dict, frozen: dict, video: jax.Array) -> jax.Array:
    return model.features(frozen, model.normalize(video)).swapaxes(1, 2)  # [L_selected, B, S, 1+N, D]


@partial(jax.jit, static_argnums=0, static_argnames="zero_shot_weight")
def _logits(
    model: VideoModel, params: dict, frozen: dict, video: jax.Array, text: jax.Array, zero_shot_weight: float
) -> jax.Array:
    return model.logits(params, frozen, text, model.normalize(video), zero_shot_weight)
