"""The few lines that a user of a trained model needs: `dist_jax.load(path)` and what it returns.

No TensorFlow is imported on this path.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dist_jax.distributed import sharding
from dist_jax.errors import UserError
from dist_jax.models.layers import unit
from dist_jax.models.preprocess import normalize
from dist_jax.models.video_model import VideoModel
from dist_jax.text.text_features import precision_of
from dist_jax.weights.clip import Texts
from dist_jax.weights.init_from import adapt
from dist_jax.weights.model_directory import EvalProtocol, Model
from dist_jax.weights.model_files import read_model


def load(path: str | Path, dtype: jnp.dtype | None = None, mesh: Mesh | None = None, clip: str = "") -> "Predictor":
    """Loads a trained model.

    Args:
        path: a model directory (`python -m dist_jax.convert`), a training workdir or a published .pyth file.
        dtype: of the frozen image tower's parameters and of the arithmetic on videos: float32, in full precision on
          every device, or bfloat16, which is faster on an accelerator; default float32. Texts are encoded in float32,
          and results are float32, either way.
        clip: where the model's CLIP is, if not where the training found it: whatever config.backbone.weights takes.
        mesh: the devices to use, from `distributed.sharding.make_mesh`; clips are split over its axes data and fsdp.
          Default: the first device.

    Raises:
        UserError: if the path holds no model, or a damaged one; if the mesh or the dtype cannot be.
    """
    dtype = jnp.dtype(jnp.float32 if dtype is None else dtype)
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise UserError(f"dtype={dtype}: must be float32 or bfloat16")
    if mesh is None:
        mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.local_devices()[:1])
    elif set(mesh.axis_names) != set(sharding.AXES):
        raise UserError(f"mesh has the axes {mesh.axis_names}; make it with dist_jax.distributed.sharding.make_mesh")
    return Predictor(read_model(path, clip=clip, place=partial(_place, mesh, dtype)), mesh, dtype)


def _place(mesh: Mesh, dtype: jnp.dtype, path: str, value: np.ndarray) -> jax.Array:
    where = sharding.replicated(mesh) if path == "text_features" else sharding.leaf_sharding(mesh, path, value.shape)
    return sharding.place(np.asarray(value).astype(dtype if path.startswith("clip/vision/") else np.float32), where)


class Predictor:
    """A trained model on its devices. Compiles once for each shape of input; parameters are arguments, not constants.

    Letters: B clips, T frames, S = T / alpha frames that CLIP sees, N patches, D CLIP's width, E joint embedding,
    K texts. Whatever cannot be is refused with a UserError that says what was wanted.
    """

    def __init__(self, model: Model, mesh: Mesh, dtype: jnp.dtype) -> None:
        """Takes a model whose parameters lie on `mesh`; users call `dist_jax.load`."""
        self._files, self._mesh, self._dtype = model, mesh, dtype
        self._model = VideoModel(model.clip.vision, model.dist, dtype, dtype)
        self._frozen = {name: model.clip.params[name] for name in ("vision", "logit_scale")}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K classes that the model was trained on; empty if it does not know them."""
        return self._files.classes

    @property
    def num_frames(self) -> int:
        """T, frames of a clip."""
        return self._files.dist.num_frames

    @property
    def resolution(self) -> int:
        """Height and width of a frame, pixels."""
        return self._files.clip.vision.resolution

    @property
    def evaluation(self) -> EvalProtocol:
        """How the model's recipe takes clips from a video."""
        return self._files.evaluation

    def encode_video(self, video: np.ndarray | jax.Array) -> jax.Array:
        """Pixels 0..255, uint8 [B, T, H, W, 3] -> video embeddings float32 [B, E], unit length."""
        return self._run(_embed, video)

    def features(self, video: np.ndarray | jax.Array) -> jax.Array:
        """Pixels uint8 [B, T, H, W, 3] -> the frozen backbone's residual stream, [L_selected, B, S, 1+N, D].

        The class token comes first. In the dtype that the model was loaded with.
        """
        return self._run(_features, video, batch_axis=1)

    def encode_text(self, texts: Texts) -> jax.Array:
        """Texts, or their token ids int [K, any length], -> text embeddings float32 [K, E], unit length.

        A text longer than the context loses its last tokens, not its end token. Texts are taken as they are, without
        a prompt, as in training.
        """
        return self._files.clip.encode_texts(texts)

    def logits(
        self, video: np.ndarray | jax.Array, text: np.ndarray | jax.Array, zero_shot_weight: float = 0.0
    ) -> jax.Array:
        """Class logits: exp(logit_scale) * cosine.

        Args:
            video: pixels, uint8 [B, T, H, W, 3].
            text: features from `encode_text`, float [K, E].
            zero_shot_weight: share, 0 to 1, of plain CLIP's logits (mean over the S frames of its per-frame logits).

        Returns:
            float32 [B, K].
        """
        text = jnp.asarray(text)
        embed = self._files.dist.embed_dim
        if text.ndim != 2 or text.shape[1] != embed or not jnp.issubdtype(text.dtype, jnp.floating):
            raise UserError(
                f"text features are {text.dtype}{list(text.shape)}; wanted float [K, {embed}], from encode_text"
            )
        if not 0 <= zero_shot_weight <= 1:
            raise UserError(f"zero_shot_weight={zero_shot_weight}: must be between 0 and 1")
        return self._run(partial(_logits, zero_shot_weight=float(zero_shot_weight)), video, text)

    def classify(
        self, video: np.ndarray | jax.Array, texts: Texts | None = None, zero_shot_weight: float = 0.0
    ) -> jax.Array:
        """Probabilities of the texts.

        Args:
            video: pixels, uint8 [B, T, H, W, 3].
            texts: class names, or token ids int [K, any length], or features from `encode_text` float [K, E]; default:
              the classes that the model was trained on.
            zero_shot_weight: as in `logits`; the paper's zero-shot setting is 0.5.

        Returns:
            float32 [B, K], rows sum to 1.
        """
        return jax.nn.softmax(self.logits(video, self._text_features(texts), zero_shot_weight))

    def for_frames(self, frames: int) -> "Predictor":
        """The same model for clips of another number of frames: its per-frame tokens and positions are interpolated.

        It was not trained so: expect it to lose some accuracy. `frames` must be a multiple of the model's alpha.
        """
        source = self._files.dist
        if frames < 1 or frames % source.alpha:
            raise UserError(f"frames={frames}: must be a positive multiple of alpha={source.alpha}")
        target = dataclasses.replace(source, num_frames=frames)
        params = jax.tree.map(jnp.asarray, adapt(self._files.dist_params, source, target))
        return Predictor(dataclasses.replace(self._files, dist=target, dist_params=params), self._mesh, self._dtype)

    @cached_property
    def _own_text_features(self) -> jax.Array:
        if self._files.text_features is not None:
            return self._files.text_features
        if not self.class_names:
            raise UserError("this model has no class names of its own; give texts to choose from")
        return self.encode_text(self.class_names)

    def _text_features(self, texts: Texts | None) -> jax.Array:
        if texts is None:
            return self._own_text_features
        if jnp.issubdtype(getattr(texts, "dtype", np.object_), jnp.floating):
            return texts
        return self.encode_text(texts)

    def _run(
        self, function: Callable, video: np.ndarray | jax.Array, *rest: jax.Array, batch_axis: int = 0
    ) -> jax.Array:
        """Runs a jitted function on clips, padded to a number that the mesh divides."""
        self._check_video(video)
        clips = len(video)
        padding = -clips % (self._mesh.shape["data"] * self._mesh.shape["fsdp"])
        if padding:
            video = np.concatenate([np.asarray(video), np.zeros((padding, *video.shape[1:]), np.uint8)])
        video = jax.device_put(video, sharding.batch_sharding(self._mesh))
        with precision_of(self._dtype):
            result = function(self._model, self._files.dist_params, self._frozen, video, *rest)
        return jax.lax.slice_in_dim(result, 0, clips, axis=batch_axis) if padding else result

    def _check_video(self, video: np.ndarray | jax.Array) -> None:
        size = self.resolution
        wanted = f"pixels 0..255, uint8 [B, {self.num_frames}, {size}, {size}, 3]"
        if not hasattr(video, "dtype"):
            raise UserError(f"video is a {type(video).__name__}; wanted an array of {wanted}")
        if video.dtype != np.uint8:
            raise UserError(f"video is {video.dtype}{list(video.shape)}; wanted {wanted}")
        if video.ndim == 5 and video.shape[1] != self.num_frames and video.shape[1] % self._files.dist.alpha == 0:
            wanted += f" (model.for_frames({video.shape[1]}) makes a model for clips of that length)"
        if video.ndim != 5 or video.shape[0] < 1 or video.shape[1:] != (self.num_frames, size, size, 3):
            raise UserError(f"video has shape {list(video.shape)}; wanted {wanted}")


@partial(jax.jit, static_argnums=0)
def _embed(model: VideoModel, params: dict, frozen: dict, video: jax.Array) -> jax.Array:
    return unit(model.embed(params, frozen, normalize(video, model.dtype)))


@partial(jax.jit, static_argnums=0)
def _features(model: VideoModel, params: dict, frozen: dict, video: jax.Array) -> jax.Array:
    return model.features(frozen, normalize(video, model.dtype))


@partial(jax.jit, static_argnums=0, static_argnames="zero_shot_weight")
def _logits(
    model: VideoModel, params: dict, frozen: dict, video: jax.Array, text: jax.Array, zero_shot_weight: float
) -> jax.Array:
    return model.logits(params, frozen, text, normalize(video, model.dtype), zero_shot_weight)
