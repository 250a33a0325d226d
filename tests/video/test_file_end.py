"""Files that end early: an error where the header promises more frames, and no error where it promises nothing."""

from pathlib import Path

import av
import pytest
from helpers.numbered_videos import copy_packets, frame_numbers, write_numbered, write_with_sound

from dist_jax.video.decoding import VideoError, decode_frames, iter_frames, probe

PROMISE = {  # codec, options of the muxer
    "faststart.mp4": ("libx264", {"movflags": "faststart"}),
    "a.mkv": ("libx264", {}),
    "a.webm": ("libvpx", {}),
    "h264.avi": ("libx264", {}),
    "mpeg4.avi": ("mpeg4", {}),
    "a.flv": ("flv1", {}),
    "a.mxf": ("mpeg2video", {}),
}
NO_PROMISE = {"h264.ts": "libx264", "mpeg2.ts": "mpeg2video", "a.mpg": "mpeg1video", "a.h264": "libx264"}


def cut(path, share):
    """Keeps the first part of a file."""
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize("share", [0.6, 0.8])
@pytest.mark.parametrize("name", PROMISE)
def test_a_file_that_ends_early_is_an_error(name, share, tmp_path):
    codec, options = PROMISE[name]
    path = cut(write_numbered(tmp_path / name, codec, mux_options=options), share)
    for read in (probe, lambda path: list(iter_frames(path)), lambda path: decode_frames(path, [0])):
        with pytest.raises(VideoError, match=r"is damaged after \d+ frames \(the file ends early\)"):
            read(path)


def test_a_fragmented_file_that_ends_in_a_fragment_is_an_error(tmp_path):
    path = write_numbered(tmp_path / "a.mp4", mux_options={"movflags": "frag_keyframe+empty_moov"})
    assert probe(path).num_frames == 60
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: data.rindex(b"mdat") + 100])
    with pytest.raises(VideoError, match=r"is damaged after \d+ frames \(the file ends early\)"):
        probe(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_the_beginning_of_a_file_that_ends_early_can_be_read(name, tmp_path):
    path = cut(write_numbered(tmp_path / name, mux_options={"movflags": "faststart"} if name == "a.mp4" else {}), 0.8)
    assert frame_numbers(frame for _, frame in iter_frames(path, 0.0, 0.4)) == list(range(10))


@pytest.mark.parametrize("name", NO_PROMISE)
def test_streams_without_a_length_in_their_header_end_where_they_end(name, tmp_path):
    path = cut(write_numbered(tmp_path / name, NO_PROMISE[name]), 0.6)
    frames = [frame for _, frame in iter_frames(path)]
    assert probe(path).num_frames == len(frames)
    assert frame_numbers(frames)[:20] == list(range(20)) and len(frames) < 60


@pytest.mark.parametrize("name", [*PROMISE, *NO_PROMISE])
def test_a_whole_file_has_all_frames(name, tmp_path):
    codec, options = PROMISE.get(name) or (NO_PROMISE[name], {})
    path = write_numbered(tmp_path / name, codec, mux_options=options)
    assert probe(path).num_frames == sum(1 for _ in iter_frames(path)) == 60


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_sound_that_is_longer_than_the_video_is_no_missing_frame(name, tmp_path):
    path = write_with_sound(tmp_path / name, "libx264", delay=0.0)  # 2.4 s and 3 s
    assert probe(path).num_frames == sum(1 for _ in iter_frames(path)) == 60


def test_frames_at_irregular_times_are_no_missing_frames(tmp_path):
    def delay_later_packets(index, packet):
        shift = round(index // 7 / 2 / packet.time_base)  # half a second more after every seventh
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift

    source = write_numbered(tmp_path / "source.mp4", options={"bf": "0"})
    for name in ("a.mp4", "a.mkv"):
        path = copy_packets(source, tmp_path / name, change_packet=delay_later_packets)
        assert probe(path).num_frames == sum(1 for _ in iter_frames(path)) == 60
        assert probe(path).times[-1] == pytest.approx(59 / 25 + 4, abs=1e-3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_lost_frames_in_the_middle_of_an_indexed_file_are_an_error(name, tmp_path):
    path = write_numbered(tmp_path / name, "libx265", options={"x265-params": "log-level=none"})
    with av.open(path) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data = bytearray(Path(path).read_bytes())
    for packet in packets[30:32]:
        start = data.index(bytes(packet))
        data[start : start + packet.size] = bytes(packet.size)
    Path(path).write_bytes(data)
    with pytest.raises(VideoError, match="is damaged"):
        list(iter_frames(path))
