"""Pictures of `explain.Evidence`: frames, weights of the frames as bars, weights of the patches as heat maps."""

from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from dist_jax.inference.explain import Evidence, explain
from dist_jax.inference.plots import montage, save
from dist_jax.inference.predictor import Predictor
from dist_jax.inference.video_classifier import Prediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 8  # frames per row
GAP = 4  # pixels between frames
WIDTH_INCHES = 12
BARS_INCHES = 0.9  # height of a row of bars
TITLE_INCHES = 0.35  # space above each of the three pictures of a row
COLOURS = "inferno"


class EvidencePictures:
    """One picture per video. Video n has the suffix -n in its file name, except for the first."""

    def __init__(self, model: Predictor, path: str) -> None:
        """`path` is the file of the first picture (.png, .pdf, .svg)."""
        self._model, self._path, self._num_pictures = model, Path(path), 0

    def add(self, prediction: Prediction) -> None:
        """Writes the picture of a video. Raises UserError if the network is not DiST or the file is not writable."""
        self._num_pictures += 1
        suffix = f"-{self._num_pictures}" if self._num_pictures > 1 else ""
        evidence = explain(self._model, prediction.path, prediction.views)
        plot_evidence(evidence, str(self._path.with_stem(self._path.stem + suffix)))


def plot_evidence(evidence: Evidence, path: str | IO[bytes]) -> None:
    """Writes a picture with at most 8 frames per row: bars of the frame weights, the frames, heat maps of the patches.

    The unit of both weights is the equal share, 1 / S for frames and 1 / (h * w) for patches. All heat maps have the
    same colour scale.

    Args:
        evidence: from `explain`.
        path: the picture (.png, .pdf, .svg), or a file for a PNG.

    Raises:
        UserError: `path` has an unknown extension or cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure  # not pyplot, which may need a display

    num_views, num_frames = evidence.frame_weights.shape
    relative = evidence.patch_shares * evidence.patch_weights[0, 0].size  # 1: the equal share
    scale = Normalize(0, float(relative.max()))
    maps = heat_maps(evidence.frames, colormaps[COLOURS](scale(relative))[..., :3])
    rows = [
        (v, slice(start, start + COLUMNS)) for v in range(num_views) for start in range(0, num_frames, COLUMNS)
    ]  # one row of pictures each
    columns = min(COLUMNS, num_frames)
    height, width = evidence.frames.shape[2:4]
    frame_inches = (WIDTH_INCHES - 1.5) / columns * height / width
    row_inches = (BARS_INCHES, frame_inches + TITLE_INCHES, frame_inches + TITLE_INCHES) * len(rows)
    total = 0.6 + sum(row_inches)
    figure = Figure(figsize=(WIDTH_INCHES, total), layout="constrained")
    axes = figure.subplots(3 * len(rows), 1, squeeze=False, height_ratios=row_inches)[:, 0]
    top = 1.1 * float(evidence.frame_weights.max()) * num_frames
    for i, (v, part) in enumerate(rows):
        bars, frames, heat = axes[3 * i : 3 * i + 3]
        _draw_bars(bars, evidence.frame_weights[v, part] * num_frames, part.start, columns * (width + GAP), top)
        bars.set_title(f"view {v + 1}: weight of each frame (1: equal share)", loc="left", fontsize=9)
        for picture, pixels, title in (
            (frames, evidence.frames, "frames"),
            (heat, maps, "weight of each patch in its frame"),
        ):
            picture.imshow(montage(pixels[v : v + 1, part], COLUMNS, GAP))
            picture.set_xlim(0, columns * (width + GAP))
            picture.set_title(title, loc="left", fontsize=9)
            picture.axis("off")
    figure.suptitle(
        f"{Path(evidence.path).name}: attention of the last pooling layer", x=0.01, ha="left", parse_math=False
    )
    figure.colorbar(
        ScalarMappable(scale, COLOURS), ax=axes[2::3].tolist(), fraction=0.02, label="weight of a patch, 1: equal share"
    )
    save(figure, path, total, "--explain")


def heat_maps(frames: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Blends grey frames with the colours of their patches.

    Args:
        frames: uint8 [V, S, H, W, 3].
        colours: of the patches, float [V, S, h, w, 3] in [0, 1].

    Returns:
        uint8 [V, S, H, W, 3].
    """
    rows, columns = (size // patches for size, patches in zip(frames.shape[2:4], colours.shape[2:4], strict=True))
    colours = colours.repeat(rows, axis=2).repeat(columns, axis=3)
    grey = frames.mean(axis=-1, keepdims=True) / 255
    return np.round(255 * (0.35 * grey + 0.65 * colours)).astype(np.uint8)


def _draw_bars(axes: "Axes", weights: np.ndarray, first: int, width: float, top: float) -> None:
    """Bars of the relative `weights` of frames `first`, ..., centred above their frames."""
    step = width / max(COLUMNS if first else len(weights), len(weights))
    centres = (np.arange(len(weights)) + 0.5) * step
    axes.bar(centres, weights, width=0.8 * step, color="#4269d0")
    axes.axhline(1, color="grey", linewidth=0.8, linestyle="--")
    for centre, weight in zip(centres, weights, strict=True):
        axes.text(centre, weight, f"{weight:.2f}", ha="center", va="bottom", fontsize=8)
    axes.set(xlim=(0, width), ylim=(0, 1.2 * top))
    axes.axis("off")
