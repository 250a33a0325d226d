"""The model of the server: classifies the videos of several requests at the same time."""

import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import jax
import numpy as np
from scipy.special import expit, softmax

from dist_jax import class_names
from dist_jax.errors import UserError
from dist_jax.inference.explain import Evidence, explain
from dist_jax.inference.frame_feed import FrameSettings
from dist_jax.inference.frame_store import FrameStore
from dist_jax.inference.predictor import Predictor
from dist_jax.inference.timeline import FRAME_BATCH, Window, WindowAssembler, classify_windows, make_grid, make_store
from dist_jax.inference.video_classifier import Prediction, read_views
from dist_jax.inference.window_grid import WindowGrid
from dist_jax.serving.batcher import Batcher, batch_sizes
from dist_jax.serving.jobs import Stopped
from dist_jax.serving.label_encoder import LabelEncoder
from dist_jax.serving.limits import Limits, RequestError
from dist_jax.serving.video_check import check_video
from dist_jax.video.decoding import TIME_TOLERANCE_S

OVERLAPS = (1, 2, 4, 8)  # windows that contain a moment of a timeline: they share frames, and need few slots
WINDOW_BATCH = 4  # windows of a timeline per call of the network
MAX_LABEL_LENGTH = 200  # characters of a class name


class Classes(NamedTuple):
    """The classes of a request."""

    names: Sequence[str]  # K names
    text: np.ndarray | None  # text features, float32 [K, E]; None: the model has its own classifier


def probabilities(vectors: np.ndarray, classes: Classes, multi_label: bool, logit_bias: float) -> np.ndarray:
    """Probabilities of K classes, as `Predictor.classify` computes them.

    Args:
        vectors: from `Predictor.logit_vectors`, float32 [n, E]; [n, K] for a model with its own classifier.
        classes: the K classes.
        multi_label: see `Predictor.multi_label`.
        logit_bias: see `Predictor.logit_bias`.

    Returns:
        float32 [n, K].
    """
    logits = vectors if classes.text is None else (vectors - logit_bias) @ classes.text.T + logit_bias
    return expit(logits) if multi_label else softmax(logits, axis=-1)


class ServedModel:
    """A model with its batcher, its cache of class names and its frame store.

    All programs have fixed shapes: the device computes vectors that do not depend on the classes
    (`Predictor.logit_vectors`), and the host multiplies them with the text features of each request.

    Args:
        model: from `dist_jax.load`.
        limits: of a request.
        max_batch: maximum number of clips per call of the device.

    Attributes:
        labels_problem: why the model cannot classify typed labels; empty: it can.

    Raises:
        UserError: the model has no class names and cannot encode any, or `max_batch` is not positive.
    """

    def __init__(self, model: Predictor, limits: Limits, max_batch: int) -> None:
        self.model, self.limits = model, limits
        protocol = model.eval_protocol
        sizes = batch_sizes(protocol.num_views * protocol.num_crops, max_batch)
        self._encode_labels = LabelEncoder(lambda names: np.asarray(model.encode_classes(names)))
        self.labels_problem = self._find_labels_problem()
        self._own = self._own_classes()
        if self._own is None and self.labels_problem:
            raise UserError(f"the model has no class names, and typed labels are not possible: {self.labels_problem}")
        self._store = self._make_store()
        self._compile(sizes)
        self._batcher = Batcher(self._vectors, sizes)

    @property
    def class_names(self) -> Sequence[str]:
        """The model's own classes; empty: every request must have labels."""
        return self._own.names if self._own else ()

    def classes(self, labels: str) -> Classes:
        """The classes of the field "labels"; empty: the model's own ones.

        Raises:
            RequestError: status 400, the model has no classes, cannot encode texts, or the labels are not valid.
        """
        if not labels.strip():
            if self._own is None:
                raise RequestError(400, "this model has no classes of its own; type labels, e.g. surfing, swimming")
            return self._own
        if self.labels_problem:
            raise RequestError(400, f"{self.labels_problem}; leave the labels empty")
        names = class_names.split(labels, "labels")
        if len(names) > self.limits.max_labels:
            raise RequestError(400, f"{len(names)} labels; at most {self.limits.max_labels} are allowed")
        longest = max(names, key=len)
        if len(longest) > MAX_LABEL_LENGTH:
            raise RequestError(
                400, f"a label has {len(longest)} characters; at most {MAX_LABEL_LENGTH} are allowed: {longest[:40]}..."
            )
        return Classes(names, self._encode_labels(names))

    def classify(self, path: str, classes: Classes, top: int, stop: threading.Event) -> Prediction:
        """Classifies an upload as `classify_video` does, in batches with other requests.

        Raises:
            RequestError, Stopped: see `check_video`.
            VideoError: the video is damaged.
        """
        check_video(path, self.limits, stop)
        views = read_views(self.model, path)
        vectors = self._batcher.submit(views.clips).result()  # [crops * V, E]
        return views.rank(classes.names, self._probabilities(vectors, classes), top)

    def explain(self, prediction: Prediction) -> Evidence | None:
        """Attention maps of the views. None: the network has none."""
        return explain(self.model, prediction.path, prediction.views) if self.model.has_attention_maps else None

    def grid(self, path: str, window: Fraction | None, overlap: int, stop: threading.Event) -> WindowGrid:
        """The windows of a timeline of an upload.

        Args:
            path: the upload.
            window: length of a window, seconds; None: the mean training clip.
            overlap: windows that contain a moment, one of OVERLAPS.
            stop: see `check_video`.

        Raises:
            RequestError: status 400, see above; too many windows, or the window is longer than the video. See
              `check_video`.
            Stopped: see `check_video`.
        """
        if overlap not in OVERLAPS:
            raise RequestError(400, f"overlap {overlap}: must be one of {', '.join(map(str, OVERLAPS))}")
        if window is None and self.model.clip_seconds is None:
            raise RequestError(400, "window is missing: the model does not contain the length of its training clips")
        if window is None:
            window = Fraction(self.model.clip_seconds or 0).limit_denominator(1000)
        info = check_video(path, self.limits, stop)
        grid = make_grid(self.model, window, window / overlap)
        end_s = float(info.times[0]) + info.duration_s
        num_windows = grid.num_windows(Fraction(end_s + TIME_TOLERANCE_S))
        if not num_windows:
            raise RequestError(400, f"a window of {float(window):g} s is longer than the video ({end_s:.3f} s)")
        if num_windows > self.limits.max_windows:
            raise RequestError(
                400,
                f"{num_windows} windows; at most {self.limits.max_windows} are allowed: use a longer window or less "
                "overlap",
            )
        return grid

    def timeline(self, path: str, grid: WindowGrid, classes: Classes, stop: threading.Event) -> Iterator[Window]:
        """Classifies the windows of an upload in order. Only one thread at a time may call this method.

        Raises:
            VideoError: the video is damaged, or shorter than a window.
            Stopped: `stop` is set.
        """
        windows = WindowAssembler(self._store, grid, lambda vectors: self._probabilities(vectors, classes))
        for window in classify_windows(windows, path, FrameSettings(self.model.resolution, square_pixels=True)):
            if stop.is_set():
                raise Stopped
            yield window

    def close(self) -> None:
        """Ends the batcher. Requests that wait for it are cancelled."""
        self._batcher.close()

    def _vectors(self, clips: np.ndarray) -> np.ndarray:
        return np.asarray(self.model.logit_vectors(clips, self.model.eval_protocol.zero_shot_weight))

    def _probabilities(self, vectors: np.ndarray, classes: Classes) -> np.ndarray:
        return probabilities(vectors, classes, self.model.multi_label, self.model.logit_bias)

    def _own_classes(self) -> Classes | None:
        """The classes of the training. None: the model has no class names."""
        names = self.model.class_names
        if not names:
            return None
        return Classes(names, None if self.model.has_own_classes else np.asarray(self.model.class_text_features))

    def _make_store(self) -> FrameStore:
        """A store with slots for all overlaps."""
        grids = [make_grid(self.model, Fraction(1), Fraction(1, overlap)) for overlap in OVERLAPS]
        grid = max(grids, key=lambda grid: grid.max_live(WINDOW_BATCH))
        return make_store(self.model, grid, self.model.embedding_axes, WINDOW_BATCH, FRAME_BATCH)

    def _compile(self, sizes: Sequence[int]) -> None:
        """Runs all programs once, so that no request waits for the compiler."""
        shape = (self.model.num_frames, self.model.resolution, self.model.resolution, 3)
        for size in sizes:
            self._vectors(np.zeros((size, *shape), np.uint8))
        if self.model.has_attention_maps:
            jax.block_until_ready(self.model.attention(np.zeros((1, *shape), np.uint8)))
        self._store.compile()

    def _find_labels_problem(self) -> str:
        """Why the model cannot classify typed labels; empty: it can. Compiles the text tower."""
        if self.model.has_own_classes:
            return "this model has its own classifier, which knows only the classes of its training"
        try:
            self._encode_labels(["label"])
        except UserError as error:
            return str(error)
        return ""
