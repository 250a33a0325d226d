"""Many sets of frames of a file in one pass."""

import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.video_files import numbers, write_video

from dist_jax.video import sequential_frames
from dist_jax.video.decoding import VideoError, decode_frames
from dist_jax.video.sequential_frames import SequentialFrames, can_seek


def test_only_good_files_can_seek(tmp_path):
    assert can_seek(write_video(tmp_path / "a.mp4"))
    assert not can_seek(write_video(tmp_path / "a.ts"))


def test_threads_read_the_frames_that_decode_frames_reads(tmp_path):
    path = write_video(tmp_path / "a.ts")
    sets = [np.arange(start, start + 10, 3) for start in range(0, 30, 2)]
    frames = SequentialFrames(path, sets, short_side=24)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(frames.read, range(len(sets))))
    for of_set, wanted in zip(found, sets, strict=True):
        np.testing.assert_array_equal(of_set, decode_frames(path, wanted.tolist(), 24))


def test_sets_may_be_read_in_any_order_and_frames_repeat(tmp_path):
    frames = SequentialFrames(
        write_video(tmp_path / "a.avi", codec="mpeg4"), [np.array([0, 7, 7]), np.array([3, 12])], 48
    )
    assert numbers(frames.read(1)) == [3, 12]
    assert numbers(frames.read(0)) == [0, 7, 7]


def test_frames_are_kept_until_their_last_set_only(tmp_path, monkeypatch):
    references, num_kept = [], []

    class CountingConverter(sequential_frames.RgbConverter):
        def __call__(self, frame):
            pixels = super().__call__(frame)
            references.append(weakref.ref(pixels))
            num_kept.append(sum(reference() is not None for reference in references))
            return pixels

    monkeypatch.setattr(sequential_frames, "RgbConverter", CountingConverter)
    sets = [np.arange(start, start + 4) for start in range(0, 36, 2)]
    frames = SequentialFrames(write_video(tmp_path / "a.ts"), sets, 48)
    for number in range(len(sets)):
        frames.read(number)
    assert len(num_kept) == 38
    assert max(num_kept) <= 6  # four of a set, and the one that is converted


def test_every_set_after_an_error_has_the_error(tmp_path):
    frames = SequentialFrames(write_video(tmp_path / "a.ts"), [np.array([5]), np.array([60]), np.array([70])], 48)
    assert numbers(frames.read(0)) == [5]
    for number in (2, 1):
        with pytest.raises(VideoError, match=r"a\.ts: frame 40 cannot be decoded"):
            frames.read(number)
