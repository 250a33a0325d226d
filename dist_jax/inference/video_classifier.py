"""Classification of video files: choose frames, decode, crop, average the probabilities over views and crops."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from dist_jax.inference.predictor import Predictor
from dist_jax.video import decoding
from dist_jax.video.eval_views import short_side_crops, temporal_views
from dist_jax.weights.model_directory import EvalProtocol


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The most probable classes of a video."""

    path: str
    frame_indices: np.ndarray  # frame numbers of each view, int32 [V, T]
    views: np.ndarray  # pixels of the views (the centre crop of three crops), uint8 [V, T, H, W, 3]
    class_names: list[str]  # in order of decreasing probability
    probabilities: np.ndarray  # of `class_names`, float32

    @property
    def views_summary(self) -> str:
        """Number and length of the views, for example "3 views of 8 frames"."""
        num_views, num_frames = self.frame_indices.shape
        return f"{num_views} view{'s'[: num_views != 1]} of {num_frames} frame{'s'[: num_frames != 1]}"

    def as_dict(self) -> dict:
        """For JSON: "video", "frames" (numbers of each view), "predictions" (labels and probabilities)."""
        classes = [
            {"label": name, "probability": float(p)}
            for name, p in zip(self.class_names, self.probabilities, strict=True)
        ]
        return {"video": self.path, "frames": self.frame_indices.tolist(), "predictions": classes}


@dataclasses.dataclass(frozen=True)
class VideoViews:
    """The clips of a video in the evaluation protocol."""

    path: str
    frame_indices: np.ndarray  # frame numbers of each view, int32 [V, T]
    crops: np.ndarray  # pixels, uint8 [crops, V, T, H, W, 3]

    @property
    def clips(self) -> np.ndarray:
        """All views of all crops: uint8 [crops * V, T, H, W, 3]."""
        return self.crops.reshape(-1, *self.crops.shape[2:])

    def rank(self, class_names: Sequence[str], probabilities: np.ndarray, top: int) -> Prediction:
        """The `top` most probable of K classes.

        Args:
            class_names: K names.
            probabilities: of each of the `clips`, float32 [crops * V, K].
            top: maximum number of classes in the result.
        """
        mean = np.mean(probabilities, axis=0)  # [K]
        best = np.argsort(-mean, kind="stable")[:top]
        central = self.crops[len(self.crops) // 2]
        return Prediction(self.path, self.frame_indices, central, [class_names[k] for k in best], mean[best])


def classify_video(
    model: Predictor,
    path: str,
    class_names: Sequence[str],
    text_features: jax.Array | None,
    top: int,
    square_pixels: bool = True,
) -> Prediction:
    """Classifies a video file with the model's evaluation protocol, one view at a time to limit device memory.

    Args:
        model: from `dist_jax.load`.
        path: a video file.
        class_names: K names.
        text_features: of `class_names`, float32 [K, E]. None: the features of the model's own classes.
        top: maximum number of classes in the result.
        square_pixels: scale the width of frames with non-square pixels, as build_records does.

    Raises:
        VideoError: the video cannot be read.
    """
    views = read_views(model, path, square_pixels)
    zero_shot_weight = model.eval_protocol.zero_shot_weight
    scores = [model.classify(clip[None], text_features, zero_shot_weight) for clip in views.clips]
    return views.rank(class_names, np.concatenate(scores), top)


def read_views(model: Predictor, path: str, square_pixels: bool = True) -> VideoViews:
    """Reads the views and crops of the model's evaluation protocol. Raises VideoError if the video is unreadable."""
    protocol = model.eval_protocol
    frame_indices = choose_frames(decoding.probe(path).num_frames, model.num_frames, protocol)  # [V, T]
    return VideoViews(
        path, frame_indices, read_crops(path, frame_indices, model.resolution, protocol.num_crops, square_pixels)
    )


def choose_frames(video_frames: int, clip_frames: int, protocol: EvalProtocol) -> np.ndarray:
    """Frame numbers of the V views of a video with `video_frames` frames: int32 [V, clip_frames]."""
    return temporal_views(video_frames, protocol.sampling, clip_frames, protocol.stride, protocol.num_views)


def read_crops(
    path: str, frame_indices: np.ndarray, resolution: int, num_crops: int, square_pixels: bool = True
) -> np.ndarray:
    """Decodes, scales and crops frames as in evaluation.

    Args:
        path: a video file.
        frame_indices: int [V, T], repetitions allowed.
        resolution: height and width of a crop, pixels.
        num_crops: 1 or 3.
        square_pixels: scale the width of frames with non-square pixels.

    Returns:
        uint8 [num_crops, V, T, resolution, resolution, 3].

    Raises:
        VideoError: the video cannot be read.
    """
    distinct = np.unique(frame_indices).tolist()
    frames = decoding.decode_frames(path, distinct, decoded_short_side(resolution), square_pixels)
    return crop_frames(frames, frame_indices, resolution, num_crops)


def crop_frames(frames: np.ndarray, frame_indices: np.ndarray, resolution: int, num_crops: int) -> np.ndarray:
    """As `read_crops`, of decoded frames.

    Args:
        frames: the n distinct frames of `frame_indices` in increasing order, uint8 [n, h, w, 3]; their short side is
          `decoded_short_side(resolution)`.
        frame_indices: see `read_crops`.
        resolution: see `read_crops`.
        num_crops: see `read_crops`.
    """
    _, order = np.unique(frame_indices, return_inverse=True)
    return short_side_crops(frames, resolution, num_crops)[:, order.reshape(frame_indices.shape)]


def decoded_short_side(resolution: int) -> int:
    """Short side of decoded frames, pixels: records have 256 pixels for a resolution of 224, others the same ratio."""
    return round(resolution * 8 / 7)
