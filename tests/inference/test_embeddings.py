"""Tests of embeddings: windows of a video, vectors, resuming, search."""

import dataclasses
import shutil

import numpy as np
import pytest
from helpers import small_models
from helpers.video_files import write_video
from hypothesis import example, given
from hypothesis import strategies as st

from dist_jax.inference import embedding_store, embeddings
from dist_jax.inference.embedding_store import Embeddings, EmbeddingStore, Span
from dist_jax.inference.embeddings import Window, Windows, frames_between, search, split
from dist_jax.video import container
from dist_jax.video.decoding import TIME_TOLERANCE_S, VideoInfo, probe


def video_info(num_frames, fps=10.0, first_s=0.0):
    return VideoInfo(num_frames, 64, 48, fps, first_s + np.arange(num_frames) / fps)


def test_without_a_window_a_video_is_one_span():
    assert split(video_info(30, first_s=2.0), Windows()) == [Window(2.0, 5.0, 0, 30)]


@pytest.mark.parametrize(
    ("num_frames", "windows", "spans"),
    [
        (30, Windows(1.0), [(0, 1), (1, 2), (2, 3)]),
        (25, Windows(1.0), [(0, 1), (1, 2), (2, 2.5)]),  # the last one is shorter
        (30, Windows(2.0, 1.0), [(0, 2), (1, 3)]),  # the second one reaches the end
        (30, Windows(9.0, 1.0), [(0, 3)]),  # longer than the video
        (30, Windows(0.5, 2.0), [(0, 0.5), (2, 2.5)]),  # gaps between windows
    ],
)
def test_windows_of_a_video(num_frames, windows, spans):
    assert [window[:2] for window in split(video_info(num_frames), windows)] == spans


def test_a_window_has_the_frames_that_are_visible_in_it():
    windows = split(video_info(30, first_s=1.0), Windows(1.0, 0.5))
    assert [window[2:] for window in windows] == [(0, 10), (5, 10), (10, 10), (15, 10), (20, 10)]
    times = np.array([0.0, 0.1, 5.0])  # the second frame is visible for 4.9 s
    assert frames_between(times, 2.0, 3.0) == (1, 1)
    assert frames_between(times, 0.05, 6.0) == (0, 3)
    assert frames_between(np.array([0.0, 0.0334, 0.0667, 0.1004]), 0.1, 1.0) == (3, 1)  # 0.1004 is 0.1, rounded


@given(st.integers(1, 80), st.floats(0.05, 9), st.floats(0.1, 1))
@example(63, 1.6578247346785413, 0.1)  # the last window is 0.3 ms too short to reach the end
def test_windows_without_gaps_have_every_frame(num_frames, window_s, ratio):
    windows = split(video_info(num_frames), Windows(window_s, window_s * ratio))
    frames = {frame for _, _, first, count in windows for frame in range(first, first + count)}
    assert frames == set(range(num_frames))
    assert all(0 < window.end_s - window.start_s <= window_s + TIME_TOLERANCE_S for window in windows)
    assert windows[-1].end_s == pytest.approx(num_frames / 10)


def test_search_orders_by_similarity_then_by_path_and_time():
    spans = [Span("b", 0, 1), Span("a", 5, 6), Span("a", 0, 1), Span("c", 0, 1), Span("d", 0, 1)]
    angles = np.float32([0.5, 0.5, 0.5, 0.1, 2])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    matches = search(Embeddings(spans, vectors), np.float32([1, 0]), top=4)
    assert [match.span for match in matches] == [spans[3], spans[2], spans[1], spans[0]]
    assert [match.similarity for match in matches] == pytest.approx(np.cos([0.1, 0.5, 0.5, 0.5]), abs=1e-6)
    assert len(search(Embeddings(spans, vectors), np.float32([1, 0]), top=9)) == 5


@pytest.fixture(scope="module")
def model():
    protocol = small_models.eval_protocol(num_views=2)
    return small_models.predictor(dataclasses.replace(small_models.model(), eval_protocol=protocol))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three videos of two seconds; the second one is damaged."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4")
    (folder / "b.mp4").write_bytes(b"no video")
    shutil.copy(folder / "a.mp4", folder / "c.mp4")
    return folder


PATHS = ["a.mp4", "b.mp4", "c.mp4"]


def new_store(folder) -> EmbeddingStore:
    return EmbeddingStore(str(folder), {"embed_dim": 32, "fingerprint": "f", "model": "m"})


def embed(model, folder, store, paths=PATHS, save_every=1):
    return embeddings.embed_videos(model, str(folder), paths, Windows(1.5), True, store, save_every)


def test_a_vector_is_the_unit_mean_of_the_views(model, folder):
    window = Window(0.5, 1.5, 10, 20)
    clips = embeddings.read_clips(model, str(folder / "a.mp4"), window)
    assert clips.shape == (2, 4, 8, 8, 3)
    # Two views of four segments of five frames: points 1/2 and 1 of each segment, after frame 10.
    levels = clips[:, :, 0, 0, 0].astype(int) / 6
    np.testing.assert_allclose(levels[0], [12, 18, 22, 28], atol=0.6)
    np.testing.assert_allclose(levels[1], [15, 20, 25, 29], atol=0.6)
    mean = np.asarray(model.encode_video(clips[::-1])).mean(axis=0)
    vector = embeddings.embed_span(model, str(folder / "a.mp4"), window)
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_unreadable_videos_are_reported_and_the_others_saved(model, folder, tmp_path):
    store = new_store(tmp_path)
    errors = embed(model, folder, store)
    assert len(errors) == 1
    assert "b.mp4" in errors[0]
    assert store.finished == {"a.mp4", "c.mp4"}
    spans, vectors = embedding_store.read(str(tmp_path))
    assert spans == [Span(path, *times) for path in ("a.mp4", "c.mp4") for times in ((0, 1.5), (1.5, 2))]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    for window, vector in zip(split(probe(str(folder / "a.mp4")), Windows(1.5)), vectors[:2], strict=True):
        np.testing.assert_allclose(embeddings.embed_span(model, str(folder / "a.mp4"), window), vector, atol=1e-6)
    np.testing.assert_array_equal(vectors[:2], vectors[2:])


def test_the_finished_videos_are_listed_once(model, folder, tmp_path):
    class CountingStore(EmbeddingStore):
        num_copies = 0

        @property
        def finished(self):
            self.num_copies += 1
            return super().finished

    store = CountingStore(str(tmp_path), {"embed_dim": 32, "fingerprint": "f", "model": "m"})
    store.add(Embeddings([Span(path, 0, 1) for path in PATHS], np.ones((3, 32), np.float32)))
    assert embed(model, folder, store) == []
    assert store.num_copies == 1


@pytest.mark.parametrize("suffix", ["avi", "ts", "mp4"])
@pytest.mark.parametrize("windows", [Windows(0.5), Windows(1.0, 0.25), Windows(0.2, 0.7)])
def test_windows_have_the_same_vectors_in_every_container(model, tmp_path, suffix, windows):
    write_video(tmp_path / f"v.{suffix}")
    store = new_store(tmp_path / "e")
    assert embeddings.embed_videos(model, str(tmp_path), [f"v.{suffix}"], windows, True, store, 1) == []
    _, vectors = embedding_store.read(str(tmp_path / "e"))
    path = str(tmp_path / f"v.{suffix}")
    expected = [embeddings.embed_span(model, path, window) for window in split(probe(path), windows)]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_the_windows_of_a_file_without_key_frame_times_are_decoded_in_one_pass(model, tmp_path, monkeypatch):
    path, decoded, decode = write_video(tmp_path / "v.ts"), [], container._decode
    assert probe(path).num_frames == 40  # decodes the file
    monkeypatch.setattr(container, "_decode", lambda *args: (decoded.append(args), decode(*args))[1])
    assert (
        embeddings.embed_videos(model, str(tmp_path), ["v.ts"], Windows(0.2), True, new_store(tmp_path / "e"), 1) == []
    )
    assert len(decoded) <= 41  # packets, and the end of the file


def test_an_interrupted_job_keeps_its_videos_and_continues(model, folder, tmp_path, monkeypatch):
    compute, calls = embeddings.clips_vector, []

    def interrupted(model, clips):
        calls.append(clips)
        if len(calls) == 3:  # the first window of the second video
            raise KeyboardInterrupt
        return compute(model, clips)

    monkeypatch.setattr(embeddings, "clips_vector", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed(model, folder, new_store(tmp_path), ["a.mp4", "c.mp4"], save_every=100)
    store = new_store(tmp_path)
    assert store.finished == {"a.mp4"}
    embed(model, folder, store, ["a.mp4", "c.mp4"])
    assert len(calls) == 5  # the two windows of c.mp4
    assert store.finish() == 4
