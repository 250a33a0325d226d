"""Times of frames: from the start of the file, never decreasing, also where the file's time stamps restart."""

from pathlib import Path

import numpy as np
import pytest
from helpers.numbered_videos import copy_packets, frame_numbers, write_numbered, write_with_sound

from dist_jax.video.container import decode_live
from dist_jax.video.decoding import decode_frames, iter_frames, probe
from dist_jax.video.frame_clock import FrameClock
from dist_jax.video.opening import open_video

CASES = Path(__file__).parents[1] / "cases"


@pytest.mark.parametrize(
    ("name", "codec", "sound_codec"),
    [
        ("a.mp4", "libx264", "aac"),
        ("a.mov", "libx264", "aac"),
        ("a.mkv", "libx264", "aac"),
        ("a.webm", "libvpx", "libopus"),
        ("a.ts", "libx264", "mp2"),
        ("a.mpg", "mpeg2video", "mp2"),
        ("a.flv", "flv1", "aac"),
    ],
)
def test_times_count_from_the_start_of_the_file_also_if_the_video_begins_later(name, codec, sound_codec, tmp_path):
    path = write_with_sound(tmp_path / name, codec, delay=0.5, sound_codec=sound_codec)
    assert probe(path).times[0] == pytest.approx(0.5, abs=0.03)  # encoder delay: audio may begin before 0
    assert frame_numbers(frame for _, frame in iter_frames(path, 1.0, 1.2)) == [13, 14, 15, 16, 17]
    np.testing.assert_allclose([time for time, _ in iter_frames(path)], probe(path).times)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_resampling_a_whole_video_begins_at_its_first_frame(name, tmp_path):
    path = write_with_sound(tmp_path / name, "libx264", delay=0.5)
    assert frame_numbers(frame for _, frame in iter_frames(path, fps=25)) == list(range(60))
    assert frame_numbers(frame for _, frame in iter_frames(path, fps=5)) == list(range(0, 60, 5))


@pytest.mark.parametrize(("name", "codec"), [("a.ts", "libx264"), ("a.ts", "mpeg2video"), ("a.mpg", "mpeg1video")])
@pytest.mark.parametrize("second_start", [0, 10_000])
def test_time_continues_where_the_time_stamps_of_a_stream_restart(name, codec, second_start, tmp_path):
    parts = [write_numbered(tmp_path / f"{start}_{name}", codec, start=start) for start in (0, second_start)]
    path = tmp_path / f"both_{name}"
    path.write_bytes(b"".join(Path(part).read_bytes() for part in parts))
    times, frames = zip(*iter_frames(str(path)), strict=True)
    assert frame_numbers(frames) == [*range(60), *range(60)]
    np.testing.assert_allclose(times, np.arange(120) / 25, atol=1e-3)
    assert frame_numbers(decode_frames(str(path), [0, 59, 60, 119])) == [0, 59, 0, 59]


FLV_HEADER = 13  # bytes


@pytest.mark.parametrize("second_start", [0, 10_000])
def test_time_continues_where_the_encoder_of_a_live_stream_restarts(second_start, tmp_path):
    parts = [
        Path(write_numbered(tmp_path / f"{start}.flv", "flv1", start=start)).read_bytes() for start in (0, second_start)
    ]
    path = tmp_path / "both.flv"
    path.write_bytes(parts[0] + parts[1][FLV_HEADER:])
    frames = list(decode_live(str(path), timeout_s=10))
    assert frame_numbers(frame.frame.to_ndarray(format="rgb24") for frame in frames) == [*range(60), *range(60)]
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(120) / 25, atol=2e-3)


def test_a_pause_of_a_live_stream_is_kept(tmp_path):
    def pause(index, packet):
        if index >= 30:
            packet.pts = packet.dts = packet.pts + round(5 / packet.time_base)

    source = write_numbered(tmp_path / "source.flv", "flv1")
    path = copy_packets(source, tmp_path / "pause.flv", change_packet=pause)
    times = np.arange(60) / 25
    times[30:] += 5
    np.testing.assert_allclose([frame.time for frame in decode_live(path, timeout_s=10)], times, atol=2e-3)


def test_the_packet_times_of_a_live_avi_stream_continue_after_a_restart(tmp_path):
    path = write_numbered(tmp_path / "a.avi", "mpeg4")
    with open_video(path) as video:
        clock, times = FrameClock(video, is_live=True), []
        for index, packet in enumerate(video.container.demux(video.stream)):
            if packet.dts is not None and index >= 30:
                packet.dts -= 30  # frames
            clock.add_packet(packet)
            times += [clock.next_time(frame)[0] for frame in packet.decode()]
    np.testing.assert_allclose(times, np.arange(60) / 25, atol=1e-6)


def test_joined_segments_play_on():
    path = str(CASES / "joined_segments.ts")
    times, frames = zip(*iter_frames(path), strict=True)
    assert frame_numbers(frames) == list(range(60))
    np.testing.assert_allclose(times, np.arange(60) / 25, atol=1e-3)


def test_frames_of_an_avi_file_have_the_times_of_its_packets(tmp_path):
    def repeat_some_frames(index, packet):
        packet.pts = packet.dts = packet.pts + index // 7

    source = write_numbered(tmp_path / "source.avi", "mpeg4")
    path = copy_packets(source, tmp_path / "gaps.avi", change_packet=repeat_some_frames)
    np.testing.assert_allclose(probe(path).times, [(k + k // 7) / 25 for k in range(60)], atol=1e-6)
    skipped = copy_packets(write_numbered(tmp_path / "b.avi"), tmp_path / "skipped.avi", skip=5)
    assert probe(skipped).times[0] == pytest.approx(12 / 25)  # the next key frame is number 12
