import struct
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import tensorflow as tf
from helpers.video_files import numbers, write_video
from hypothesis import given
from hypothesis import strategies as st

from dist_jax.video import container
from dist_jax.video.decoding import VideoError, choose_by_time, decode_frames, iter_frames, probe, reduced_size
from dist_jax.video.recent_values import RecentValues

CONTAINERS = {
    "h264.mp4": ("libx264", {}),
    "h264.mkv": ("libx264", {}),
    "h264.ts": ("libx264", {}),  # no index; timestamps do not start at 0
    "vp8.webm": ("libvpx", {"deadline": "realtime"}),
    "mpeg4.avi": ("mpeg4", {"bf": "2"}),  # no presentation times
    "h264.avi": ("libx264", {}),
    "raw.h264": ("libx264", {}),  # no timestamps and no frame rate
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, (codec, options) in CONTAINERS.items():
        write_video(folder / name, codec=codec, options=options)
    return folder


@pytest.fixture(scope="module")
def mp4(folder):
    return str(folder / "h264.mp4")


@pytest.mark.parametrize("name", CONTAINERS)
def test_iter_frames_yields_all_frames_in_order_with_their_times(folder, name):
    path = str(folder / name)
    times, frames = zip(*iter_frames(path), strict=True)
    info = probe(path)
    assert numbers(frames) == list(range(40))
    assert frames[0].dtype == np.uint8 and frames[0].shape == (48, 64, 3)
    assert (info.num_frames, info.width, info.height) == (40, 64, 48)
    np.testing.assert_allclose(times, np.arange(40) / info.fps, atol=1e-3)
    np.testing.assert_allclose(times, info.times, atol=1e-9)
    assert info.duration_s == pytest.approx(40 / info.fps, abs=1e-3)


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_segment_has_the_same_frames_as_the_whole_video(folder, name):
    path = str(folder / name)
    whole = [frame for time, frame in iter_frames(path) if 0.799 < time < 1.199]
    segment = [frame for _, frame in iter_frames(path, 0.8, 1.2)]
    assert len(whole) == len(segment) >= 8
    assert all((a == b).all() for a, b in zip(whole, segment, strict=True))


@pytest.mark.parametrize("name", CONTAINERS)
def test_decode_frames_by_number(folder, name):
    indices = [39, 3, 3, 20, 0, 21]
    whole = [frame for _, frame in iter_frames(str(folder / name))]
    chosen = decode_frames(str(folder / name), indices)
    np.testing.assert_array_equal(chosen, np.stack([whole[number] for number in indices]))


@pytest.mark.parametrize("name", CONTAINERS)
def test_resampling_takes_the_frame_shown_at_each_time(folder, name):
    path = str(folder / name)
    fps = probe(path).fps
    times, frames = zip(*iter_frames(path, 0.5, 1.3, fps=4), strict=True)
    assert times == (0.5, 0.75, 1.0, 1.25)
    assert numbers(frames) == [int(time * fps + 1e-6) for time in times]


@pytest.mark.parametrize("name", CONTAINERS)
def test_resampling_at_the_original_frame_rate_keeps_every_frame(folder, name):
    path = str(folder / name)
    assert numbers(frame for _, frame in iter_frames(path, fps=probe(path).fps)) == list(range(40))


def test_frames_before_the_key_frame_are_not_decoded(mp4, tmp_path):
    with av.open(mp4) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    late = next(packet for packet in packets if packet.is_keyframe and packet.pts * packet.time_base > 0.7)
    data = bytearray(Path(mp4).read_bytes())
    first = min(packet.pos for packet in packets)
    data[first : late.pos] = bytes(late.pos - first)
    (tmp_path / "blank_start.mp4").write_bytes(data)
    assert numbers(f for _, f in iter_frames(str(tmp_path / "blank_start.mp4"), 1.0, 1.5)) == list(range(20, 30))
    assert numbers(decode_frames(str(tmp_path / "blank_start.mp4"), [20, 39])) == [20, 39]
    with pytest.raises(VideoError, match=r"blank_start\.mp4"):
        list(iter_frames(str(tmp_path / "blank_start.mp4")))


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "vp8.webm"])
def test_only_the_groups_of_pictures_of_the_chosen_frames_are_decoded(folder, name, monkeypatch):
    path, decoded, decode = str(folder / name), [], container._decode
    assert probe(path).num_frames == 40  # from the packets
    monkeypatch.setattr(container, "_decode", lambda *args: (decoded.append(args), decode(*args))[1])
    assert numbers(decode_frames(path, [9, 33])) == [9, 33]
    assert 4 <= len(decoded) <= 14  # groups of 8 pictures begin at 8 and 32; three packets are decoded ahead


def test_vp8_frames_that_are_never_shown_are_not_counted(tmp_path):
    shown = write_video(tmp_path / "shown.webm", codec="libvpx", options={"deadline": "realtime"})
    path, hidden = str(tmp_path / "hidden.webm"), (11, 27)
    with av.open(shown) as source, av.open(path, "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            data = bytearray(bytes(packet))
            if number in hidden:
                data[0] &= ~0x10  # clears the show_frame bit
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            target.mux(copy)
    assert probe(path).num_frames == 38
    assert numbers(decode_frames(path, range(38))) == [number for number in range(40) if number not in hidden]


def test_a_file_is_scanned_once_until_it_changes(mp4, tmp_path, monkeypatch):
    path, opened, scan_file = tmp_path / "a.mp4", [], container._scan_file
    monkeypatch.setattr(container, "_scan_file", lambda path, *rest: (opened.append(path), scan_file(path, *rest))[1])
    path.write_bytes(Path(mp4).read_bytes())
    for _ in range(2):
        assert probe(str(path)).num_frames == 40
        decode_frames(str(path), [3])
    assert len(opened) == 1
    write_video(path, frames=7)
    assert probe(str(path)).num_frames == 7


def test_the_last_used_files_are_cached_up_to_a_total_number_of_frame_times(mp4, tmp_path, monkeypatch):
    scanned, scan_file = [], container._scan_file
    monkeypatch.setattr(
        container, "_scan_file", lambda path, on_frame=None: (scanned.append(Path(path).stem), scan_file(path))[1]
    )
    size = container._num_cached(scan_file(mp4))
    assert size >= 40
    monkeypatch.setattr(container, "_cache", RecentValues(2 * size, container._num_cached))
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(Path(mp4).read_bytes())
    for name in "abacab":  # c replaces b, which was used before a
        probe(str(tmp_path / f"{name}.mp4"))
    assert scanned == ["a", "b", "c", "b"]


def test_a_file_above_the_limit_of_the_cache_is_scanned_once(mp4, monkeypatch):
    scanned, scan_file = [], container._scan_file
    monkeypatch.setattr(container, "_scan_file", lambda path, on_frame=None: (scanned.append(path), scan_file(path))[1])
    monkeypatch.setattr(container, "_cache", RecentValues(1, container._num_cached))
    for _ in range(2):
        probe(mp4)
    assert scanned == [mp4]


@pytest.mark.parametrize("name", ["h264.mp4", "h264.ts"])
def test_cached_times_take_eight_bytes_and_cannot_be_changed(folder, name):
    times = probe(str(folder / name)).times
    assert times.nbytes == 8 * 40
    assert container.read_frame_times(str(folder / name)).times is times
    with pytest.raises(ValueError, match="read-only"):
        times[0] = 1


def test_large_frames_are_scaled_down_and_small_frames_keep_their_size(mp4):
    assert next(iter_frames(mp4, short_side=24))[1].shape == (24, 32, 3)
    assert next(iter_frames(mp4, short_side=256))[1].shape == (48, 64, 3)
    assert decode_frames(mp4, [5], short_side=24).shape == (1, 24, 32, 3)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(2, 512))
def test_reduced_size_keeps_the_aspect_ratio(width, height, short_side):
    new = reduced_size(width, height, short_side)
    if min(width, height) <= short_side:
        assert new == (width, height)
    else:
        assert min(new) == short_side
        assert max(new) % 2 == 0 or width == height
        # Rounding to an even number changes the long side by at most one pixel.
        assert abs(max(new) - max(width, height) * short_side / min(width, height)) <= 1


def test_a_rotation_tag_is_applied(tmp_path):
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[:, :32] = 200  # bright on the left
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()
    one = 1 << 16
    header = data.index(b"tkhd")
    offset = data.index(struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30), header)
    rotated = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)  # 90 degrees clockwise
    path.write_bytes(data[:offset] + rotated + data[offset + len(rotated) :])
    _, frame = next(iter_frames(str(path)))
    assert frame.shape == (64, 48, 3)
    assert frame[:28].mean() > 180 and frame[36:].mean() < 20  # the left half is now at the top
    assert (probe(str(path)).width, probe(str(path)).height) == (48, 64)


def test_all_frames_have_the_size_of_the_first_frame(tmp_path):
    one, other = write_video(tmp_path / "a.h264", frames=4), write_video(tmp_path / "b.h264", 4, width=96, height=64)
    (tmp_path / "both.h264").write_bytes(Path(one).read_bytes() + Path(other).read_bytes())
    frames = [frame for _, frame in iter_frames(str(tmp_path / "both.h264"))]
    assert {frame.shape for frame in frames} == {(48, 64, 3)}
    assert numbers(frames) == [0, 1, 2, 3, 0, 1, 2, 3]


def test_a_video_on_a_file_system_of_tensorflow(mp4):
    tf.io.gfile.copy(mp4, "ram://clip.mp4", overwrite=True)
    assert numbers(decode_frames("ram://clip.mp4", [7, 30])) == [7, 30]


@pytest.mark.parametrize(
    ("start", "end", "fps", "expected"),
    [
        # Five frames at 0.0, 0.1, ... 0.4, each shown for 0.1 s.
        (0.0, None, None, [0, 1, 2, 3, 4]),
        (0.1, 0.3, None, [1, 2]),
        (0.15, None, 0, [2, 3, 4]),
        (0.0, None, 5, [0, 2, 4]),
        (0.0, None, 20, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]),
        (0.05, None, 10, [0, 1, 2, 3, 4]),
        (0.0, 0.2, 10, [0, 1]),
        (0.0, None, 3, [0, 3]),  # at 0 and 0.333 s; 0.667 s is after the end
    ],
)
def test_choose_by_time(start, end, fps, expected):
    frames = [(k / 10, 0.1, k) for k in range(5)]
    assert [item for _, item in choose_by_time(frames, start, end, fps, 1e-6)] == expected


def test_choose_by_time_repeats_a_late_first_frame():
    frames = [(0.3, 0.1, "a"), (0.4, 0.1, "b")]
    assert [item for _, item in choose_by_time(frames, 0.0, None, 10, 1e-6)] == ["a", "a", "a", "a", "b"]


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=30),
    st.integers(0, 100),
    st.integers(1, 300),
    st.integers(1, 40),
)
def test_choose_by_time_takes_the_last_frame_at_or_before_each_tick(gaps, start, length, fps):
    # All times are multiples of 0.01 s, so that the expected result needs no rounding.
    starts = np.concatenate([[0], np.cumsum(gaps)])
    frames = [(a / 100, (b - a) / 100, i) for i, (a, b) in enumerate(pairwise(starts))]
    chosen = list(choose_by_time(frames, start / 100, (start + length) / 100, fps, 1e-9))
    for k, (time, item) in enumerate(chosen):
        assert time == pytest.approx(start / 100 + k / fps)
        assert starts[item] / 100 <= time + 1e-6 and time < starts[item + 1] / 100 + 1e-6
    end = min(start + length, starts[-1]) / 100
    assert len(chosen) == len([k for k in range(20_000) if start / 100 + k / fps < end - 1e-9])


def test_unreadable_files_raise_video_error(mp4, tmp_path):
    data = Path(mp4).read_bytes()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with av.open(str(tmp_path / "audio.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    for name, reason in {
        "absent.mp4": "no such file",
        "empty.mp4": "cannot be read",
        "text.mp4": "cannot be read",
        "cut.mp4": "cannot be read",
        "audio.mp4": "no video stream",
        "": "cannot be read",
    }.items():
        for read in (probe, lambda path: list(iter_frames(path)), lambda path: decode_frames(path, [0])):
            with pytest.raises(VideoError, match=reason):
                read(str(tmp_path / name))


def test_a_truncated_file_raises_video_error(tmp_path):
    path = write_video(tmp_path / "whole.mp4", frames=30)
    with (
        av.open(path) as source,
        av.open(str(tmp_path / "early.mp4"), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = (tmp_path / "early.mp4").read_bytes()
    (tmp_path / "early.mp4").write_bytes(data[: len(data) - 7])
    with pytest.raises(VideoError, match=r"early\.mp4"):
        list(iter_frames(str(tmp_path / "early.mp4")))


def test_a_video_without_frames_raises_video_error(tmp_path):
    with av.open(str(tmp_path / "none.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    for read in (probe, lambda path: list(iter_frames(path)), lambda path: decode_frames(path, [0])):
        with pytest.raises(VideoError, match=r"none\.avi"):
            read(str(tmp_path / "none.avi"))


def test_invalid_segments_and_frame_numbers_raise_video_error(mp4):
    with pytest.raises(VideoError, match=r"no frame from 50 s to the end; the last frame is at 1\.9"):
        list(iter_frames(mp4, 50))
    with pytest.raises(VideoError, match="end 1 s must be after start 1 s"):
        list(iter_frames(mp4, 1.0, 1.0))
    with pytest.raises(VideoError, match="from 0 to 39"):
        decode_frames(mp4, [40])
    with pytest.raises(VideoError, match="from 0 to 39"):
        decode_frames(mp4, [-1])
