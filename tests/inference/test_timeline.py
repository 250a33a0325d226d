"""Tests of dist_jax.inference.timeline: frames of windows, equality with classify(), sharing, bad videos, streams."""

import bisect
import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from helpers import small_models
from helpers.numbered_videos import write_numbered
from helpers.small_models import CLASSES, DIST
from helpers.video_files import write_video
from hypothesis import given, settings
from hypothesis import strategies as st

import dist_jax
from dist_jax import convert
from dist_jax.errors import UserError
from dist_jax.inference import timeline
from dist_jax.inference.video_classifier import read_crops
from dist_jax.inference.window_grid import WindowGrid
from dist_jax.video import decoding
from dist_jax.video.opening import VideoError
from dist_jax.weights import clip as clip_weights

S = Fraction  # seconds


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    tokenizer = small_models.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return small_models.predictor(convert.with_classes(small_models.model(tokenizer=tokenizer), CLASSES))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Sixty frames at 25 frames per second: 2.4 s."""
    return write_numbered(tmp_path_factory.mktemp("video") / "numbers.mp4")


def window_clip(path, start, end, num_frames=DIST.num_frames, resolution=8):
    """The frames of a window, chosen from the list of all frame times: uint8 [1, T, H, W, 3]."""
    times = decoding.probe(path).times.tolist()
    wanted = [start + (k + 0.5) * (end - start) / num_frames for k in range(num_frames)]
    indices = [max(bisect.bisect_right(times, time + decoding.TIME_TOLERANCE_S) - 1, 0) for time in wanted]
    return read_crops(path, np.array([indices]), resolution, 1)[0]


def check_windows(windows, model, path, text=None):
    for window in windows:
        clip = window_clip(path, float(window.start), float(window.end), model.num_frames)
        expected = model.classify(clip, text, model.eval_protocol.zero_shot_weight)[0]
        np.testing.assert_allclose(window.probabilities, expected, atol=1e-5)


def test_frames_of_a_window_are_the_middles_of_equal_parts_and_every_alpha_th_is_sparse():
    grid = WindowGrid(window=S(8), hop=S(2), num_frames=4, alpha=2, start=S(10))
    assert grid.frame_times(1) == [13, 15, 17, 19]  # from 12 to 20 s
    assert grid.sparse_times(1) == [13, 17]
    assert [grid.num_windows(S(end)) for end in (17, 18, 19, 20)] == [0, 1, 1, 2]


def test_points_are_the_distinct_times_of_all_windows():
    grid = WindowGrid(window=S(4), hop=S(2), num_frames=4, alpha=2)
    # Window 0: frames at 0.5, 1.5, 2.5, 3.5; window 1: 2.5, ..., 5.5. The backbone sees 0.5, 2.5 and 2.5, 4.5.
    points = list(grid.points(2))
    assert [float(p.time) for p in points] == [0.5, 1.5, 2.5, 3.5, 4, 4.5, 5.5, 6]
    assert [float(p.time) for p in points if not p.is_frame] == [4, 6]
    assert [float(p.time) for p in points if p.is_sparse] == [0.5, 2.5, 4.5]
    assert [p.last_window for p in points] == [0, 0, 1, 1, 0, 1, 1, 1]


@settings(max_examples=60)
@given(
    window=st.fractions(S(1, 10), 10, max_denominator=12),
    hop=st.fractions(S(1, 10), 10, max_denominator=12),
    sizes=st.sampled_from([(1, 1), (2, 1), (4, 2), (6, 3)]),
    num_windows=st.integers(1, 12),
    batch=st.integers(1, 4),
)
def test_points_are_increasing_and_slots_suffice(window, hop, sizes, num_windows, batch):
    grid = WindowGrid(window, hop, *sizes)
    points = list(grid.points(num_windows))
    times = [point.time for point in points]
    assert times == sorted(set(times))
    sparse = {time: [j for j in range(num_windows) if time in grid.sparse_times(j)] for time in times}
    assert {point.time for point in points if point.is_sparse} == {time for time, users in sparse.items() if users}
    assert all(point.last_window >= max(sparse[point.time], default=0) for point in points)
    for first in range(num_windows - batch + 1):
        live = [t for t in times if grid.frame_times(first)[0] <= t < grid.end_of(first + batch - 1) and sparse[t]]
        assert len(live) <= grid.max_live(batch)


@pytest.mark.parametrize(
    ("window", "hop", "start", "end"),
    [
        (S(8, 10), S(1, 10), S(0), None),  # an eighth of a window: frames are shared
        (S(7, 10), S(3, 10), S(5, 10), S(2)),  # few equal times
        (S(1, 5), S(1, 2), S(0), None),  # gaps between windows
        (S(12, 5), S(1), S(0), None),  # the whole video
        (S(1, 100), S(1, 5), S(2), None),  # many equal frames
    ],
)
def test_windows_have_the_probabilities_of_classify_on_their_frames(model, video, window, hop, start, end):
    grid = timeline.make_grid(model, window, hop, start)
    windows = list(timeline.classify_file(model, video, grid, end=end))
    assert [w.start for w in windows] == [start + j * hop for j in range(grid.num_windows(end or S(24, 10)))]
    assert all(w.end - w.start == window for w in windows)
    check_windows(windows, model, video)


def test_the_default_hop_is_an_eighth_of_a_window(model):
    assert timeline.make_grid(model, S(4)).hop == S(1, 2)


def test_the_backbone_sees_each_frame_once_and_slots_are_used_again(model, video, monkeypatch):
    encoded = []
    encode = timeline.FrameStore.encode

    def counting(self, frames, slots):
        encoded.append(slots)
        encode(self, frames, slots)

    monkeypatch.setattr(timeline.FrameStore, "encode", counting)
    grid = timeline.make_grid(model, S(2, 10), S(1, 20))
    windows = list(timeline.classify_file(model, video, grid))
    assert len(windows) == 45  # (2.4 - 0.2) / 0.05 + 1
    distinct = {time for j in range(45) for time in grid.sparse_times(j)}
    used = [slot for slots in encoded for slot in slots]
    assert len(used) == len(distinct) == 47  # two frames per window, at a distance of two hops
    assert len(set(used)) <= grid.max_live(timeline.WINDOW_BATCH) == 11


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_zero_shot_weights_and_other_texts(video, weight):
    trained = small_models.model(dist=dataclasses.replace(DIST, layers=(0, 1)))  # without the last block
    protocol = small_models.eval_protocol(zero_shot_weight=weight)
    model = small_models.predictor(dataclasses.replace(trained, eval_protocol=protocol))
    text = model.encode_text(np.array([[52, 3, 4, 53, 0], [52, 7, 53, 0, 0]]))
    windows = list(timeline.classify_file(model, video, timeline.make_grid(model, S(1), S(1, 2)), text))
    assert len(windows) == 3
    check_windows(windows, model, video, text)


def test_plain_clip_and_probes(tmp_path, video):
    clip_weights.save_huggingface(small_models.clip_model(), tmp_path / "clip")
    small_models.write_tokenizer(tmp_path / "clip")
    clip = dist_jax.load(tmp_path / "clip", num_frames=4)
    text = clip.encode_classes(["a fox", "a hen"])
    check_windows(timeline.classify_file(clip, video, timeline.make_grid(clip, S(2)), text), clip, video, text)
    workdir = small_models.write_workdir(tmp_path / "run", str(tmp_path / "clip"), "attentive_probe")
    probe = dist_jax.load(workdir)
    check_windows(timeline.classify_file(probe, video, timeline.make_grid(probe, S(2))), probe, video)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(window=S(0)), "window is 0 s; must be greater than 0"),
        (dict(window=S(1), hop=S(0)), "hop is 0 s; must be greater than 0"),
        (dict(window=S(1), start=S(-1)), "start is -1 s; must not be negative"),
    ],
)
def test_invalid_grids_are_refused(model, arguments, message):
    with pytest.raises(UserError, match=message):
        timeline.make_grid(model, **arguments)


@pytest.mark.parametrize(("start", "end"), [(S(0), None), (S(0), S(1)), (S(5), None), (S(2), S(1))])
def test_a_window_that_does_not_fit_is_an_error(model, video, start, end):
    grid = timeline.make_grid(model, S(3), S(1), start)
    with pytest.raises(VideoError, match=r"numbers\.mp4: no window of 3 s fits between .* s; use a shorter --window"):
        list(timeline.classify_file(model, video, grid, end=end))


def test_windows_before_a_damage_are_kept(model, video, tmp_path):
    with open(video, "rb") as file:
        data = file.read()
    path = write_numbered(tmp_path / "cut.mp4", mux_options={"movflags": "faststart"})
    with open(path, "rb") as file:
        data = file.read()
    with open(path, "wb") as file:
        file.write(data[: len(data) * 3 // 4])
    windows = []
    with pytest.raises(VideoError, match=r"is damaged after \d+ frames"):
        for window in timeline.classify_file(model, path, timeline.make_grid(model, S(1, 2))):
            windows.append(window)
    assert len(windows) >= 8
    check_windows(windows, model, video)


def test_a_frame_of_8k_is_classified(model, tmp_path):
    path = write_video(
        tmp_path / "large.mp4", frames=1, width=7680, height=4320, options={"preset": "ultrafast"}, rate=1
    )
    check_windows(timeline.classify_file(model, path, timeline.make_grid(model, S(1))), model, path)
