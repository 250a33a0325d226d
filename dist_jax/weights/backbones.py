"""Loads a backbone of any kind. KINDS is the table of kinds."""

from dist_jax.errors import UserError
from dist_jax.models.backbones.vit import VitBackbone
from dist_jax.weights.backbone_files import OpenedWeights, UnsupportedBackboneError, open_weights
from dist_jax.weights.backbone_model import Architecture, BackboneModel
from dist_jax.weights.clip import ClipModel
from dist_jax.weights.openai_sizes import ClipSettings
from dist_jax.weights.pe import PeModel
from dist_jax.weights.published_sizes import PUBLISHED
from dist_jax.weights.siglip import SiglipModel
from dist_jax.weights.table import Place, keep

KINDS: dict[str, type[BackboneModel]] = {kind.kind: kind for kind in (SiglipModel, PeModel, ClipModel)}
_NO_SETTINGS = ClipSettings()


def load(
    weights: str, *, resolution: int = 0, place: Place = keep, settings: ClipSettings = _NO_SETTINGS
) -> BackboneModel:
    """Loads a backbone.

    Args:
        weights: Hugging Face hub id (owner/name); a directory with files of Hugging Face or open_clip; or a file:
          OpenAI's .pt, open_clip's .bin or .safetensors, a published DiST .pyth (it contains CLIP).
        resolution: height and width of the input frames in pixels; 0: the resolution of its training. The position
          embeddings are interpolated for another resolution.
        place: function of each parameter's path ("vision/...", "text/...", "logit_scale") and value. Parameters are
          read one at a time. If `place` moves them to a device, host memory for two copies of the largest is enough.
        settings: activation and numbers of heads, for a file that does not contain them.

    Raises:
        UserError: no such weights, another architecture, tensors that are missing, unknown or of wrong shape, or a
          setting that is missing or contradicts the files.
    """
    kind, architecture = _architecture(open_weights(weights), settings)
    return kind.read(architecture, resolution, place)


def image_tower(weights: str, settings: ClipSettings = _NO_SETTINGS) -> VitBackbone:
    """The backbone without text tower: from a table for well-known hub ids, otherwise from the files.

    Reads no parameters. Arguments and errors as in `load`.
    """
    if weights in PUBLISHED:
        return PUBLISHED[weights]
    kind, architecture = _architecture(open_weights(weights), settings)
    return kind.backbone_class(architecture.vision)


def _architecture(opened: OpenedWeights, settings: ClipSettings) -> tuple[type[BackboneModel], Architecture]:
    """The kind of the files. Unrecognised files are read as CLIP: the tensors of a CLIP may have any names."""
    kind = next((kind for kind in KINDS.values() if kind.recognizes(opened)), ClipModel)
    try:
        return kind, kind.architecture(opened, settings)
    except UnsupportedBackboneError as error:
        supported = "; ".join(kind.supports for kind in KINDS.values())
        raise UserError(f"{error}; supported: {supported}") from error
