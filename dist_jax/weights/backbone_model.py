"""A loaded backbone, and what its kind defines: how files are recognised and read, and how texts become tokens."""

import abc
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from dist_jax.errors import UserError, warn
from dist_jax.models.backbones.text_tower import TextConfig
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.models.backbones.vit import VitBackbone
from dist_jax.text.text_features import encode_tokens
from dist_jax.weights import table
from dist_jax.weights.backbone_files import OpenedWeights
from dist_jax.weights.openai_sizes import ClipSettings
from dist_jax.weights.positions import resize_positions
from dist_jax.weights.table import Place

Texts = Sequence[str] | np.ndarray | jax.Array  # strings, or their token ids int [K, any length]

# The upper limit in CLIP's training; trained models reach it.
_DEFAULT_LOGIT_SCALE = np.log(np.full((), 100, np.float32))


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What the opened files contain."""

    opened: OpenedWeights  # its tensors have the names of `rows`
    rows: table.Table
    vision: VisionConfig
    text: TextConfig | None  # None: no text tower
    ignored: Sequence[str] = ()  # tensors that are not parameters


@dataclasses.dataclass(frozen=True)
class BackboneModel(abc.ABC):
    """A loaded backbone: sizes, parameters and origin."""

    vision: VisionConfig
    text: TextConfig | None  # None: no text tower
    params: dict  # the frozen tree, see models.backbones.base
    tokenizer: str | None  # directory of its tokenizer files
    name: str  # the `weights` argument of `weights.backbones.load`
    # Hash of the float32 values before casts and interpolation: equal for the same weights in all formats.
    fingerprint: str

    kind: ClassVar[str]  # key of weights.backbones.KINDS; model directories hold it
    supports: ClassVar[str]  # the models that can be read, for error messages
    backbone_class: ClassVar[type[VitBackbone]]

    @classmethod
    @abc.abstractmethod
    def recognizes(cls, opened: OpenedWeights) -> bool:
        """Whether the files look like a model of this kind."""

    @classmethod
    @abc.abstractmethod
    def architecture(cls, opened: OpenedWeights, settings: ClipSettings) -> Architecture:
        """The table of names and the sizes for files that `recognizes` accepts.

        Args:
            opened: the files.
            settings: of the user, for files that do not contain all sizes.

        Raises:
            UnsupportedBackboneError: another architecture.
            UserError: a setting that is missing or contradicts the files.
        """

    @abc.abstractmethod
    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        """Strings -> token ids int [K, context]. Raises UserError for a tokenizer of another model."""

    @abc.abstractmethod
    def check_tokens(self, tokens: np.ndarray) -> np.ndarray:
        """Token ids int [K, any length] -> int32 [K, context] for the text tower. Raises UserError if it is invalid."""

    def backbone(self, dtype: jnp.dtype = jnp.float32, quantize: str = "") -> VitBackbone:
        """The backbone for the model; `dtype` of the image tower's arithmetic, `quantize` as its kernels are."""
        return self.backbone_class(self.vision, self.text, dtype, quantize)

    def encode_texts(self, texts: Texts) -> jax.Array:
        """Text embeddings: strings, or token ids int [K, any length] -> float32 [K, E], unit length.

        No prompt is added, as in training. A text longer than the context is truncated and keeps its end token.

        Raises:
            UserError: the model has no text tower; strings without a tokenizer, or with the tokenizer of another model;
              invalid texts or token ids.
        """
        if self.text is None:
            raise UserError(f"{self.name} has no text tower, so it cannot encode texts; use a complete model")
        if hasattr(texts, "dtype"):
            return self._encode_tokens(np.asarray(texts))
        if not len(texts):
            raise UserError("no texts are given; pass at least one")
        tokens = self.tokenize(texts)
        try:
            return self._encode_tokens(tokens)
        except UserError as error:
            raise UserError(f"{self.tokenizer_mismatch}: {error}") from error

    @property
    def tokenizer_directory(self) -> str:
        """The directory of the tokenizer files. Raises UserError if the model has none."""
        if self.tokenizer is None:
            raise UserError(
                f"{self.name} has no tokenizer files, so it accepts only token ids (int [K, context]); copy the "
                "tokenizer files of the model to the directory of its weights, or use python -m dist_jax.convert "
                "--tokenizer DIR"
            )
        return self.tokenizer

    @property
    def tokenizer_mismatch(self) -> str:
        """The first part of an error message about the tokenizer."""
        return f"the tokenizer of {self.tokenizer} does not belong to the text tower of {self.name}"

    def _encode_tokens(self, tokens: np.ndarray) -> jax.Array:
        return encode_tokens(self.backbone(), {"text": self.params["text"]}, self.check_tokens(tokens))

    @classmethod
    def read(cls, architecture: Architecture, resolution: int, place: Place) -> Self:
        """Reads the parameters.

        Args:
            architecture: from `architecture`.
            resolution: as in `weights.backbones.load`.
            place: as in `weights.backbones.load`.

        Raises:
            UserError: tensors that are missing, unknown or of wrong shape, or another resolution than whole patches.
        """
        opened, vision = architecture.opened, architecture.vision
        resolution = resolution or vision.resolution
        if resolution % vision.patch_size:
            raise UserError(
                f"resolution {resolution}: must be a multiple of {vision.patch_size}, the patch size of {opened.name}"
            )
        rows, shapes = cls._rows_and_shapes(architecture)
        table.check(rows, shapes, opened.shapes, opened.source, architecture.ignored)
        digests, leaves = {}, {}
        for path, value in table.to_ours(rows, lambda name: np.asarray(opened.tensors[name], np.float32), shapes):
            digests[path] = _digest(path, value)
            if path == "vision/positions":
                num_prefix = cls.backbone_class(vision).num_prefix_tokens
                value = resize_positions(value, resolution // vision.patch_size, num_prefix)
            leaves[path] = place(path, value)
        if "logit_scale" not in leaves:
            warn(f"{opened.source} has no text tower and no logit_scale; using a logit scale of 100")
            leaves["logit_scale"] = place("logit_scale", _DEFAULT_LOGIT_SCALE)
        fingerprint = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
        vision = dataclasses.replace(vision, resolution=resolution)
        params = table.unflatten(leaves)
        return cls(vision, architecture.text, params, opened.tokenizer, opened.name, fingerprint)

    @classmethod
    def _rows_and_shapes(cls, architecture: Architecture) -> tuple[table.Table, table.Shapes]:
        """The rows of the table for the parts in the file, and the shapes of their parameters."""
        text = architecture.text
        parts = {"vision"} if text is None else {"vision", "text", *cls.backbone_class.scalars}
        names = {entry.paths[0]: entry.name for entry in architecture.rows}
        parts |= {part for part in cls.backbone_class.scalars if names[part] in architecture.opened.tensors}
        rows = table.only(architecture.rows, parts)
        shapes = table.flatten(cls.backbone_class(architecture.vision, text).param_shapes())
        return rows, {path: leaf.shape for path, leaf in shapes.items() if path.partition("/")[0] in parts}


def _digest(path: str, value: np.ndarray) -> str:
    digest = hashlib.sha256(f"{path} {value.shape} ".encode())
    digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()
