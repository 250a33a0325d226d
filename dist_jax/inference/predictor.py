"""The Python API of a trained model: `dist_jax.load(path)` returns a `Predictor`."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dist_jax.distributed import sharding
from dist_jax.errors import UserError
from dist_jax.inference.frame_store import Capacity, Classifier, FrameStore
from dist_jax.models.layers import matmul_precision, unit
from dist_jax.models.video_model import VideoModel
from dist_jax.text.prompt_templates import encode_classes
from dist_jax.typing import PyTree
from dist_jax.weights import table
from dist_jax.weights.backbone_model import Texts
from dist_jax.weights.init_from import adapt
from dist_jax.weights.model_directory import EvalProtocol, Model


class AttentionMaps(NamedTuple):
    """Attention weights of the P pooling layers of a DiST network, means over the heads."""

    frames: jax.Array  # of the video query over the frames of CLIP, float32 [B, P, S]; a row sums to 1
    patches: (
        jax.Array
    )  # of the spatial query of each frame, float32 [B, P, S, h, w]; with the class token, the sum is 1


_OWN_CLASSES = "{} has its own classifier, so it cannot classify other texts; remove them"


class Predictor:
    """A trained model on its devices, or plain CLIP. Every method compiles once per input shape.

    A probe has its own linear classifier: it classifies only the classes of its training and has no video embeddings.
    Plain CLIP has no class names, and any `zero_shot_weight` has no effect.

    Symbols: B clips, T frames per clip, S = T / alpha frames for CLIP, N patches per frame, L_selected CLIP blocks that
    the network reads, D CLIP width, E embedding size, K texts. Methods raise UserError for invalid inputs.
    """

    def __init__(self, model: Model, mesh: Mesh, dtype: jnp.dtype) -> None:
        """`dist_jax.load` calls this constructor. The parameters of `model` are on `mesh`."""
        self._model, self._mesh, self._dtype = model, mesh, dtype
        backbone = model.clip_model.backbone(dtype, model.quantize)
        self._video_model = VideoModel(backbone, model.dist, dtype, network_name=model.network)
        self._frozen = {name: part for name, part in model.clip_model.params.items() if name != "text"}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes of the training data; empty if the model has none."""
        return self._model.class_names

    @property
    def has_own_classes(self) -> bool:
        """True if the model has its own linear classifier, so that it cannot classify other texts."""
        return self._video_model.has_own_classes

    @property
    def multi_label(self) -> bool:
        """True if the probability of each class is independent of the others: the sigmoid of its logit."""
        return self._model.multi_label

    @property
    def has_attention_maps(self) -> bool:
        """True if the network is DiST, see `attention`."""
        return self._model.network == "dist"

    @property
    def num_frames(self) -> int:
        """T, frames per clip."""
        return self._model.dist.num_frames

    @property
    def embed_dim(self) -> int:
        """E, size of the video and text embeddings."""
        return self._model.dist.embed_dim

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides embeddings: equal models in equal formats of numbers have the same one."""
        model = self._model
        settings = {
            "network": model.network,
            "dist": dataclasses.asdict(model.dist),
            "vision": dataclasses.asdict(model.clip_model.vision),
            "clip": model.clip_model.fingerprint,
            "eval_protocol": dataclasses.asdict(model.eval_protocol),
            "prompt_templates": model.prompt_templates,
            "dtype": str(self._dtype),
            "quantize": model.quantize,
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for path, leaf in sorted(table.flatten(model.dist_params).items()):
            digest.update(path.encode())
            digest.update(np.ascontiguousarray(leaf))
        return digest.hexdigest()

    @property
    def resolution(self) -> int:
        """H = W, height and width of a frame in pixels."""
        return self._model.clip_model.vision.resolution

    @property
    def alpha(self) -> int:
        """CLIP sees every alpha-th frame of a clip."""
        return self._model.dist.alpha

    @property
    def eval_protocol(self) -> EvalProtocol:
        """How clips are sampled from a video at test time."""
        return self._model.eval_protocol

    @property
    def clip_seconds(self) -> float | None:
        """Mean length of the training clips, seconds; None: unknown."""
        return self._model.clip_seconds

    def encode_video(self, video: np.ndarray | jax.Array) -> jax.Array:
        """Video embeddings: pixels 0..255, uint8 [B, T, H, W, 3] -> float32 [B, E], unit length.

        Those of plain CLIP are the normalised mean of the unit embeddings of the frames.
        """
        if self.has_own_classes:
            raise UserError(f"{self._model.network} has no video embeddings, only the logits of its own classes")
        return self._run(_embed, video)

    def features(self, video: np.ndarray | jax.Array) -> jax.Array:
        """Residual stream of the frozen backbone after each selected layer.

        Args:
            video: pixels, uint8 [B, T, H, W, 3].

        Returns:
            [L_selected, B, S, P+N, D] in the `dtype` of `dist_jax.load`; P prefix tokens first (CLIP: the class token).
        """
        return self._run(_features, video, batch_axis=1)

    def attention(self, video: np.ndarray | jax.Array) -> AttentionMaps:
        """Attention weights of the pooling layers for clips: pixels 0..255, uint8 [B, T, H, W, 3].

        Raises:
            UserError: the network is not DiST; only DiST has these layers.
        """
        if not self.has_attention_maps:
            raise UserError(f"the network {self._model.network!r} has no pooling layers of DiST, so no attention maps")
        frames, tokens = self._run(_attention, video)
        backbone = self._video_model.backbone
        side = backbone.resolution // self._model.dist.patch_size
        patches = tokens[..., backbone.num_prefix_tokens :]
        return AttentionMaps(frames, patches.reshape(*patches.shape[:-1], side, side))

    def encode_text(self, texts: Texts) -> jax.Array:
        """Text embeddings: strings, or token ids int [K, any length] -> float32 [K, E], unit length.

        No prompt is added, as in training. A text longer than the context is truncated and keeps its end token.
        """
        return self._model.clip_model.encode_texts(texts)

    def encode_classes(self, class_names: Sequence[str]) -> jax.Array:
        """Text embeddings of K class names, with the prompt templates of the training: float32 [K, E], unit length."""
        return encode_classes(self.encode_text, class_names, self._model.prompt_templates)

    def logits(
        self, video: np.ndarray | jax.Array, text: np.ndarray | jax.Array | None = None, zero_shot_weight: float = 0.0
    ) -> jax.Array:
        """Class logits: exp(logit_scale) * cosine similarity, or those of a probe's linear classifier.

        Args:
            video: pixels, uint8 [B, T, H, W, 3].
            text: text features from `encode_text`, float [K, E]. None: the classes of the training data.
            zero_shot_weight: weight of the plain CLIP logits (mean of the per-frame logits over S frames), 0 to 1.

        Returns:
            float32 [B, K].
        """
        text = self._check_text(text, zero_shot_weight)
        if text is None:
            return self._run(_output, video)
        return self._run(partial(_logits, zero_shot_weight=float(zero_shot_weight)), video, text)

    def logit_vectors(self, video: np.ndarray | jax.Array, zero_shot_weight: float = 0.0) -> jax.Array:
        """Vectors that give the logits of any texts without another pass of the model.

        The logits of text features of unit length are (vectors - logit_bias) @ text.T + logit_bias. For a model with
        its own classes, the vectors are its logits.

        Args:
            video: pixels, uint8 [B, T, H, W, 3].
            zero_shot_weight: as in `logits`.

        Returns:
            float32 [B, E]; of a model with its own classes: [B, K].
        """
        return self.logits(video, self.embedding_axes, zero_shot_weight)

    @property
    def embedding_axes(self) -> jax.Array | None:
        """The text features of `logit_vectors`, float32 [E, E]. None: the model has its own classes."""
        return None if self.has_own_classes else jnp.eye(self.embed_dim)

    @cached_property
    def logit_bias(self) -> float:
        """The number that the backbone adds to the logits of all texts: SigLIP's bias; 0 for CLIP."""
        return float(self._frozen.get("logit_bias", 0.0))

    def classify(
        self, video: np.ndarray | jax.Array, texts: Texts | None = None, zero_shot_weight: float = 0.0
    ) -> jax.Array:
        """Class probabilities.

        Args:
            video: pixels, uint8 [B, T, H, W, 3].
            texts: class names, token ids int [K, any length], or text features from `encode_text`, float [K, E].
              Class names get the prompt templates of the training. Default: the classes of the training data.
            zero_shot_weight: as in `logits`; 0.5 in the paper's zero-shot protocol.

        Returns:
            float32 [B, K]; each row sums to 1. If a video of the training had any number of labels: the probability
            of each class, independent of the others.
        """
        text = None if texts is None else self._text_features(texts)
        logits = self.logits(video, text, zero_shot_weight)
        return _probabilities(logits, self._model.multi_label)

    def frame_store(
        self, capacity: Capacity, text: np.ndarray | jax.Array | None = None, zero_shot_weight: float = 0.0
    ) -> FrameStore:
        """An empty store of features, for clips that share frames. `inference.timeline` uses it.

        Args:
            capacity: its sizes.
            text: as in `logits`.
            zero_shot_weight: as in `logits`.
        """
        return FrameStore(self.classifier(text, zero_shot_weight), self._mesh, self._dtype, capacity)

    def classifier(self, text: np.ndarray | jax.Array | None = None, zero_shot_weight: float = 0.0) -> Classifier:
        """The model and its arrays, for programs that are compiled elsewhere. Arguments as in `logits`."""
        return Classifier(
            self._video_model,
            self._model.dist_params,
            self._frozen,
            self._check_text(text, zero_shot_weight),
            float(zero_shot_weight),
            self._model.multi_label,
        )

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
    def class_text_features(self) -> jax.Array:
        """Text features of `class_names`, float32 [K, E], unit length. Raises UserError if the model has no names."""
        if self._model.text_features is not None:
            return self._model.text_features
        if not self.class_names:
            raise UserError("the model has no class names; pass texts")
        return self.encode_classes(self.class_names)

    def _text_features(self, texts: Texts) -> np.ndarray | jax.Array:
        if self.has_own_classes:
            raise UserError(_OWN_CLASSES.format(self._model.network))
        if jnp.issubdtype(getattr(texts, "dtype", np.object_), jnp.floating):
            return texts
        if isinstance(texts, (list, tuple)) and texts and all(isinstance(text, str) for text in texts):
            return self.encode_classes(texts)
        return self.encode_text(texts)

    def _check_text(self, text: np.ndarray | jax.Array | None, zero_shot_weight: float) -> jax.Array | None:
        """Valid text features of K classes, by default of those of the training. None: the model has own classes."""
        if not 0 <= zero_shot_weight <= 1:
            raise UserError(f"zero_shot_weight={zero_shot_weight}: must be between 0 and 1")
        if self.has_own_classes:
            if text is not None:
                raise UserError(_OWN_CLASSES.format(self._model.network))
            if zero_shot_weight > 0:
                raise UserError(
                    f"zero_shot_weight={zero_shot_weight}: {self._model.network} cannot be mixed with CLIP; use 0"
                )
            return None
        text = self.class_text_features if text is None else jnp.asarray(text)
        embed_dim = self._model.dist.embed_dim
        if text.ndim != 2 or text.shape[1] != embed_dim or not jnp.issubdtype(text.dtype, jnp.floating):
            raise UserError(
                f"text features are {text.dtype}{list(text.shape)}; expected float [K, {embed_dim}], from encode_text"
            )
        return text

    def _run(self, function: Callable, video: np.ndarray | jax.Array, *rest: jax.Array, batch_axis: int = 0) -> PyTree:
        """Runs a jitted function on clips. Pads the batch to a multiple of the devices that share it."""
        self._check_video(video)
        num_clips = len(video)
        padding = -num_clips % sharding.num_batch_shards(self._mesh)
        if padding:
            video = np.concatenate([np.asarray(video), np.zeros((padding, *video.shape[1:]), np.uint8)])
        video = jax.device_put(video, sharding.batch_sharding(self._mesh))
        with matmul_precision(self._dtype):
            result = function(self._video_model, self._model.dist_params, self._frozen, video, *rest)
        if not padding:
            return result
        return jax.tree.map(lambda array: jax.lax.slice_in_dim(array, 0, num_clips, axis=batch_axis), result)

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
def _output(model: VideoModel, params: dict, frozen: dict, video: jax.Array) -> jax.Array:
    return model.embed(params, frozen, model.normalize(video))


@partial(jax.jit, static_argnums=1)  # one program, not one for each operation of a softmax
def _probabilities(logits: jax.Array, multi_label: bool) -> jax.Array:
    return jax.nn.sigmoid(logits) if multi_label else jax.nn.softmax(logits)


@partial(jax.jit, static_argnums=0)
def _attention(model: VideoModel, params: dict, frozen: dict, video: jax.Array) -> tuple[jax.Array, jax.Array]:
    return model.attention(params, frozen, model.normalize(video))


@partial(jax.jit, static_argnums=0)
def _features(model: VideoModel, params: dict, frozen: dict, video: jax.Array) -> jax.Array:
    return model.features(frozen, model.normalize(video)).swapaxes(1, 2)  # [L_selected, B, S, 1+N, D]


@partial(jax.jit, static_argnums=0, static_argnames="zero_shot_weight")
def _logits(
    model: VideoModel, params: dict, frozen: dict, video: jax.Array, text: jax.Array, zero_shot_weight: float
) -> jax.Array:
    (label,) = model.label_names
    return model.mixed_logits(params, frozen, {label: text}, model.normalize(video), zero_shot_weight)[label]
