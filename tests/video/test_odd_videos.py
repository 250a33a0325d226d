"""Frame k is frame k of sequential decoding, `probe` counts what decodes, and damaged files give frames or one line."""

import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers.damaged_videos import damage, read_in_child
from helpers.numbered_videos import copy_packets, frame_numbers, set_display_matrix, write_numbered
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_jax.video.decoding import VideoError, decode_frames, iter_frames, probe

CASES = Path(__file__).parents[1] / "cases"
KINDS = [  # suffix, codec, whether its encoder makes B-frames
    *(("mp4", "libx264", True), ("mov", "libx264", True), ("mkv", "libx264", True), ("ts", "libx264", True)),
    *(("avi", "libx264", True), ("flv", "libx264", True), ("m2ts", "libx264", True), ("h264", "libx264", True)),
    *(("mp4", "mpeg4", True), ("mkv", "mpeg4", True), ("avi", "mpeg4", True), ("nut", "mpeg4", True)),
    *(
        ("mpg", "mpeg1video", True),
        ("mpg", "mpeg2video", True),
        ("ts", "mpeg2video", True),
        ("mkv", "mpeg2video", True),
    ),
    *(("vob", "mpeg2video", True), ("mxf", "mpeg2video", True), ("mov", "prores", False), ("mkv", "ffv1", False)),
    *(("avi", "mjpeg", False), ("mov", "mjpeg", False), ("flv", "flv1", False), ("wmv", "wmv2", False)),
    *(("webm", "libvpx", False), ("gif", "gif", False)),
]


def check_agreement(path):
    """Asserts that all ways to read a video agree. Returns the frames."""
    times, frames = zip(*iter_frames(path), strict=True)
    info = probe(path)
    assert info.num_frames == len(frames)
    np.testing.assert_allclose(times, info.times, atol=1e-9)
    assert (np.diff(times) >= 0).all()
    np.testing.assert_array_equal(decode_frames(path, range(len(frames))), frames)
    some = [len(frames) - 1, 0, len(frames) // 2]
    np.testing.assert_array_equal(decode_frames(path, some), [frames[number] for number in some])
    start, end = times[len(times) // 3], times[2 * len(times) // 3]
    if start < end:
        part = [frame for time, frame in zip(times, frames, strict=True) if start <= time < end]
        np.testing.assert_array_equal([frame for _, frame in iter_frames(path, start, end)], part)
    return frames


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("upright.mp4", range(200, 212)),
        ("joined_segments.ts", range(60)),
        ("starts_between_key_frames.ts", range(15, 60)),
        ("two_frames_one_time.mp4", range(20)),
        ("vcd_small.mpg", range(100)),
    ],
)
def test_cases(name, numbers):
    frames = check_agreement(str(CASES / name))
    if name == "upright.mp4":  # its lower right block moves
        assert len(frames) == len(numbers)
    else:
        assert frame_numbers(frames) == list(numbers)


@settings(max_examples=40, derandomize=True, database=None)
@given(
    kind=st.sampled_from(KINDS),
    b_frames=st.booleans(),
    start=st.sampled_from([0, 1, 40, 5000]),
    rate=st.sampled_from([Fraction(25), Fraction(30000, 1001), Fraction(12)]),
    matrix=st.sampled_from([(1, 0, 0, 1), (-1, 0, 0, 1), (0, 1, -1, 0), (0, -1, -1, 0)]),
    num_frames=st.sampled_from([1, 2, 13, 30]),
)
def test_files_of_all_kinds(kind, b_frames, start, rate, matrix, num_frames):
    suffix, codec, has_b_frames = kind
    if suffix == "h264" or (codec in ("mpeg1video", "mpeg2video", "flv1") and rate == 12):
        rate = Fraction(25)  # MPEG has a list of rates, raw streams have none
    if suffix in ("avi", "gif", "mxf"):
        start = 0  # no time stamps that could start later
    if suffix in ("ts", "m2ts"):
        num_frames = max(num_frames, 13)  # FFmpeg does not recognise streams of a few packets
    with tempfile.TemporaryDirectory() as folder:
        options = {"bf": "2" if b_frames else "0"} if has_b_frames else {}
        path = write_numbered(
            f"{folder}/a.{suffix}", codec, options=options, num_frames=num_frames, start=start, rate=rate
        )
        frames = check_agreement(path)
        assert frame_numbers(frames) == list(range(num_frames))
        np.testing.assert_allclose(np.diff(probe(path).times), float(1 / rate), atol=0.011 if suffix == "gif" else 2e-3)
        if suffix == "mp4":
            set_display_matrix(path, *matrix)
            check_agreement(path)


@settings(max_examples=25, derandomize=True, database=None)
@given(kind=st.sampled_from([kind for kind in KINDS if kind[0] != "gif"]), skip=st.integers(1, 11))
def test_files_that_start_between_key_frames(kind, skip):
    suffix, codec, _ = kind
    with tempfile.TemporaryDirectory() as folder:
        whole = write_numbered(f"{folder}/whole.{suffix}", codec, num_frames=40)
        path = copy_packets(whole, f"{folder}/a.{suffix}", skip=skip)
        frames = check_agreement(path)
        # Decoders of MPEG-4 and older codecs show damaged frames up to the next key frame.
        assert frame_numbers(frames)[-28:] == list(range(12, 40))


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_a_transport_stream_that_lost_a_packet_plays_on(codec, tmp_path):
    data = Path(write_numbered(tmp_path / "whole.ts", codec)).read_bytes()
    for lost in (20, 40, 61):
        path = tmp_path / f"{lost}.ts"
        path.write_bytes(data[: 188 * lost] + data[188 * (lost + 1) :])
        frames = check_agreement(str(path))
        assert len(frames) >= 59 and frame_numbers(frames)[-1] == 59


def test_frames_with_equal_times_can_be_read_by_number(tmp_path):
    def show_tenth_with_ninth(index, packet):
        period = round(1 / 25 / packet.time_base)
        packet.dts -= period
        packet.pts -= period * (index == 10)

    source = write_numbered(tmp_path / "source.mp4", options={"bf": "0"}, num_frames=20)
    for name in ("a.mp4", "a.mkv"):
        path = copy_packets(source, tmp_path / name, change_packet=show_tenth_with_ninth)
        assert frame_numbers(check_agreement(path)) == list(range(20))


@pytest.mark.parametrize(
    "options", ["intra-refresh=1:keyint=12:scenecut=0", "open-gop=1:bframes=3:b-adapt=0:keyint=12:scenecut=0"]
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_key_frames_that_later_or_earlier_frames_pass(options, suffix, tmp_path):
    path = write_numbered(tmp_path / f"a.{suffix}", options={"x264-params": options})
    assert frame_numbers(check_agreement(path)) == list(range(60))
    for number in range(0, 60, 7):
        assert frame_numbers(decode_frames(path, [number])) == [number]


def test_randomly_damaged_files_give_frames_or_one_line(tmp_path):
    sources = {path.name: path.read_bytes() for path in sorted(CASES.iterdir()) if path.suffix != ".txt"}
    for suffix, codec, _ in KINDS:
        path = write_numbered(tmp_path / f"{codec}.{suffix}", codec, num_frames=30)
        sources[Path(path).name] = Path(path).read_bytes()
    paths = []
    for seed, (name, data) in enumerate(sources.items()):
        paths.append(str(tmp_path / f"damaged_{name}"))
        Path(paths[-1]).write_bytes(damage(data, np.random.default_rng(seed)))
    results = read_in_child(paths)
    for path, result in results.items():
        messages = [value for value in result.values() if isinstance(value, str) and value != path]
        assert all(message.startswith(path) and "\n" not in message for message in messages)
        if isinstance(result["probe"], int) and isinstance(result["iter_frames"], int):
            assert result["probe"] == result["iter_frames"]
    assert 5 < sum(isinstance(result["iter_frames"], int) for result in results.values()) < len(results) - 5


def test_a_message_about_a_damaged_file_says_how_far_it_can_be_read(tmp_path):
    path = write_numbered(tmp_path / "a.mp4")
    data = bytearray(Path(path).read_bytes())
    start = data.index(b"mdat")
    data[start + 2500 : start + 2600] = bytes(100)
    Path(path).write_bytes(data)
    with pytest.raises(VideoError, match=r"a\.mp4: is damaged after \d+ frames \(.+\)$"):
        list(iter_frames(path))
