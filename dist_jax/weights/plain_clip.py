"""A backbone without trained network as a model: it classifies a video by the mean of its per-frame logits."""

from functools import partial
from pathlib import Path

from dist_jax import hub
from dist_jax.models.dist_network import DistConfig
from dist_jax.models.networks import NO_NETWORK
from dist_jax.weights import backbone_files, backbones, checkpoint_files, dist_official
from dist_jax.weights.model_directory import Model
from dist_jax.weights.table import Place, place_under

NUM_FRAMES = 8  # default of `read`; DiST's smallest published models show CLIP as many frames


def is_clip(path: str | Path) -> bool:
    """True if `path` is a hub id, a directory with CLIP's files, or a weight file without DiST network.

    Raises:
        UserError: the file cannot be opened.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        names = (*backbone_files.WEIGHTS, backbone_files.CONFIG, backbone_files.OPEN_CLIP_CONFIG)
        return any((local / name).is_file() for name in names)
    if local.is_file():
        network, _ = dist_official.split(checkpoint_files.open_tensors(local), str(path))
        return not network
    return hub.is_id(str(path))


def read(path: str | Path, num_frames: int, place: Place) -> Model:
    """Reads a CLIP as a model without network and class names; CLIP sees all frames of a clip.

    Args:
        path: as `weights` of `weights.backbones.load`.
        num_frames: T, frames per clip.
        place: function of each tensor's path ("clip/vision/...") and value.

    Raises:
        UserError: the errors of `weights.backbones.load`.
    """
    clip_model = backbones.load(str(path), place=partial(place_under, "clip", place))
    vision = clip_model.vision
    dist = DistConfig(
        num_frames=num_frames,
        alpha=1,
        layers=tuple(range(vision.num_layers)),
        patch_size=vision.patch_size,
        backbone_width=vision.width,
        embed_dim=vision.embed_dim,
        integration_width=0,  # no network has these three sizes
        temporal_width=0,
        num_pooling_layers=0,
    )
    return Model(dist, {}, clip_model, network=NO_NETWORK)
