"""Embeddings of the videos in a folder, and search in them."""

import dataclasses
import functools
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from dist_jax.inference.embedding_store import Embeddings, EmbeddingStore, Span
from dist_jax.inference.predictor import Predictor
from dist_jax.inference.video_classifier import choose_frames, crop_frames, decoded_short_side, read_crops
from dist_jax.video import decoding
from dist_jax.video.decoding import TIME_TOLERANCE_S, VideoError, VideoInfo
from dist_jax.video.sequential_frames import SequentialFrames, can_seek

NUM_THREADS = min(8, os.cpu_count() or 1)  # decode videos while the device computes
SIMILARITY_DIGITS = 6  # equal vectors are ties, although a matrix product may differ in the last bit


@dataclasses.dataclass(frozen=True)
class Windows:
    """How a video is divided into spans with one vector each."""

    window_s: float | None = None  # length, seconds; None: the whole video
    hop_s: float | None = None  # distance between the starts, seconds; None: as `window_s`


class Window(NamedTuple):
    """A span of a video by time and by frame number."""

    start_s: float
    end_s: float
    first_frame: int
    num_frames: int  # at least 1


class Match(NamedTuple):
    """A result of a search."""

    span: Span
    similarity: float  # cosine, -1 to 1


def split(info: VideoInfo, windows: Windows) -> list[Window]:
    """Divides a video into windows. The first starts at the first frame.

    No window starts after the end of the video or after a window that reaches it. The last window ends with the video,
    so it may be shorter. A window has the frames that are visible in it, at least one.
    """
    begin, end = float(info.times[0]), float(info.times[0]) + info.duration_s
    if windows.window_s is None:
        return [Window(begin, end, 0, info.num_frames)]
    hop_s = windows.window_s if windows.hop_s is None else windows.hop_s
    spans: list[tuple[float, float]] = []
    for number in itertools.count():
        start = begin + number * hop_s
        if spans and (start >= end - TIME_TOLERANCE_S or spans[-1][1] >= end - TIME_TOLERANCE_S):
            break
        stop = start + windows.window_s
        spans.append((start, stop if stop < end - TIME_TOLERANCE_S else end))
    return [Window(start, stop, *frames_between(info.times, start, stop)) for start, stop in spans]


def frames_between(times: np.ndarray, start_s: float, end_s: float) -> tuple[int, int]:
    """First frame and number of frames that are visible in [start_s, end_s); at least one frame.

    Args:
        times: of all frames, increasing, seconds [num_frames]. A frame is visible until the next one.
        start_s: seconds.
        end_s: seconds.
    """
    first = max(int(np.searchsorted(times, start_s + TIME_TOLERANCE_S, "right")) - 1, 0)
    stop = int(np.searchsorted(times, end_s - TIME_TOLERANCE_S, "left"))
    return first, max(stop - first, 1)


def embed_videos(
    model: Predictor,
    folder: str,
    paths: Sequence[str],
    windows: Windows,
    square_pixels: bool,
    store: EmbeddingStore,
    save_every: int,
) -> list[str]:
    """Embeds the videos that the store does not have, and saves them after every `save_every` videos.

    Args:
        model: with video embeddings.
        folder: of the videos.
        paths: of the videos, relative to `folder`.
        windows: see `Windows`.
        square_pixels: scale the width of frames with non-square pixels.
        store: receives the vectors.
        save_every: number of videos; saving also happens at the end and after Ctrl-C.

    Returns:
        One message per unreadable video.
    """
    finished = store.finished  # a copy
    missing = [path for path in paths if path not in finished]
    pending: list[Embeddings] = []
    errors = []
    try:
        with tqdm(total=len(paths), initial=len(paths) - len(missing), unit="video", disable=None) as bar:
            for result in _embed_all(model, folder, missing, windows, square_pixels):
                if isinstance(result, VideoError):
                    errors.append(str(result))
                else:
                    pending.append(result)
                if len(pending) >= save_every:
                    _save(store, pending)
                bar.update()
    finally:
        _save(store, pending)
    return errors


def embed_span(model: Predictor, path: str, window: Window, square_pixels: bool = True) -> np.ndarray:
    """The vector of a window of a video file, float32 [E], see `clips_vector`. Raises VideoError if unreadable."""
    return clips_vector(model, read_clips(model, path, window, square_pixels))


def read_clips(model: Predictor, path: str, window: Window, square_pixels: bool = True) -> np.ndarray:
    """Reads the views and crops of the model's evaluation protocol in a window: uint8 [clips, T, H, W, 3]."""
    num_crops = model.eval_protocol.num_crops
    crops = read_crops(path, _frame_indices(model, window), model.resolution, num_crops, square_pixels)
    return crops.reshape(-1, *crops.shape[2:])  # [crops, V, T, H, W, 3] -> [crops * V, T, H, W, 3]


def clips_vector(model: Predictor, clips: np.ndarray) -> np.ndarray:
    """Mean of the unit embeddings of clips uint8 [clips, T, H, W, 3], scaled to unit length: float32 [E]."""
    mean = np.mean(np.asarray(model.encode_video(clips)), axis=0)
    return mean / np.linalg.norm(mean)


def search(embeddings: Embeddings, query: np.ndarray, top: int) -> list[Match]:
    """The `top` most similar spans to the unit vector `query` float32 [E]; ties in the order of path and time."""
    similarities = np.round(embeddings.vectors @ query, SIMILARITY_DIGITS)
    spans = embeddings.spans
    order = sorted(range(len(spans)), key=lambda i: (-similarities[i], spans[i]))
    return [Match(spans[i], float(similarities[i])) for i in order[:top]]


def _save(store: EmbeddingStore, pending: list[Embeddings]) -> None:
    """Moves the vectors of finished videos to the store."""
    if pending:
        spans = [span for video in pending for span in video.spans]
        store.add(Embeddings(spans, np.concatenate([video.vectors for video in pending])))
        pending.clear()


def _embed_all(
    model: Predictor, folder: str, paths: Sequence[str], windows: Windows, square_pixels: bool
) -> Iterator[Embeddings | VideoError]:
    """Yields the vectors of each video, or the error."""

    def read(part: _Part) -> _ReadPart:
        if isinstance(part.window, VideoError):
            return _ReadPart(part, part.window)
        try:
            return _ReadPart(part, part.read_clips())
        except VideoError as error:
            return _ReadPart(part, error)

    parts = _map_ahead(read, _parts(model, folder, paths, windows, square_pixels))
    for _, video in itertools.groupby(parts, key=lambda read_part: read_part.part.path):
        yield _embed_parts(model, video)


class _Part(NamedTuple):
    path: str
    window: Window | VideoError
    read_clips: Callable[[], np.ndarray]  # of the window


class _ReadPart(NamedTuple):
    part: _Part
    clips: np.ndarray | VideoError


def _parts(
    model: Predictor, folder: str, paths: Sequence[str], windows: Windows, square_pixels: bool
) -> Iterator[_Part]:
    for path in paths:
        file = os.path.join(folder, path)
        try:
            spans = split(decoding.probe(file), windows)
        except VideoError as error:
            yield _Part(path, error, lambda: np.empty(0))
            continue
        if len(spans) > 1 and not can_seek(file):
            readers = _sequential_readers(model, file, spans, square_pixels)
        else:
            readers = (functools.partial(read_clips, model, file, window, square_pixels) for window in spans)
        yield from (_Part(path, window, reader) for window, reader in zip(spans, readers, strict=True))


def _sequential_readers(
    model: Predictor, path: str, windows: Sequence[Window], square_pixels: bool
) -> Iterator[Callable[[], np.ndarray]]:
    """Functions that read the same clips as `read_clips`. Together they decode the file once."""
    indices = [_frame_indices(model, window) for window in windows]
    distinct = [np.unique(of_window) for of_window in indices]
    frames = SequentialFrames(path, distinct, decoded_short_side(model.resolution), square_pixels)

    def read(number: int) -> np.ndarray:
        num_crops = model.eval_protocol.num_crops
        crops = crop_frames(frames.read(number), indices[number], model.resolution, num_crops)
        return crops.reshape(-1, *crops.shape[2:])

    return (functools.partial(read, number) for number in range(len(windows)))


def _frame_indices(model: Predictor, window: Window) -> np.ndarray:
    """Frame numbers in the file of the views of a window: int [V, T]."""
    return window.first_frame + choose_frames(window.num_frames, model.num_frames, model.eval_protocol)


def _embed_parts(model: Predictor, parts: Iterable[_ReadPart]) -> Embeddings | VideoError:
    """The vectors of the parts of one video, or the first error. Nothing is computed after an error."""
    spans: list[Span] = []
    vectors: list[np.ndarray] = []
    error: VideoError | None = None
    for (path, window, _), clips in parts:
        if isinstance(window, VideoError):
            error = error or window
        elif isinstance(clips, VideoError):
            error = error or clips
        elif error is None:
            spans.append(Span(path, round(window.start_s, 3), round(window.end_s, 3)))
            vectors.append(clips_vector(model, clips))
    return error or Embeddings(spans, np.stack(vectors))


def _map_ahead(function: Callable[[_Part], _ReadPart], parts: Iterable[_Part]) -> Iterator[_ReadPart]:
    """Results of `function` in order, computed ahead in threads. At most NUM_THREADS results wait."""
    futures: deque[Future[_ReadPart]] = deque()
    pool = ThreadPoolExecutor(NUM_THREADS)
    try:
        for part in parts:
            futures.append(pool.submit(function, part))
            if len(futures) > NUM_THREADS:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
