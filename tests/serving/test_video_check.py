"""Tests of dist_jax.serving.video_check: what an upload may be."""

import threading
from pathlib import Path

import pytest
from helpers.video_files import write_video

from dist_jax.serving import video_check
from dist_jax.serving.jobs import Stopped
from dist_jax.serving.limits import Limits, RequestError
from dist_jax.video import container, opening


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a video of two seconds, 64 x 48 pixels."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "video.mp4")
    return folder


def check(path, limits=None, stop=None):
    return video_check.check_video(str(path), limits or Limits(), stop or threading.Event())


def refused(path, limits=None):
    """Status and message."""
    with pytest.raises(RequestError) as error:
        check(path, limits)
    assert "\n" not in str(error.value)
    return error.value.status, str(error.value)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "mpg", "mov", "flv"])
def test_videos_are_recognised_by_their_content(folder, suffix):
    codec = {"mpg": "mpeg2video", "avi": "mpeg4", "flv": "flv"}.get(suffix, "libx264")
    path = write_video(folder / f"any.{suffix}", frames=25, rate=25, codec=codec)
    (folder / "without_suffix").write_bytes(Path(path).read_bytes())
    info = check(folder / "without_suffix")
    assert (info.num_frames, info.width, info.height) == (25, 64, 48)


@pytest.mark.parametrize("content", [b"", b"no video", b"\x00" * 5000])
def test_other_files_are_refused(folder, content):
    (folder / "other").write_bytes(content)
    status, message = refused(folder / "other")
    assert (status, "is not a video" in message) == (400, True)


def test_playlists_are_refused_because_they_read_other_files(folder):
    """FFmpeg follows a list without this check."""
    (folder / "list").write_text("ffconcat version 1.0\nfile video.mp4\n")
    with opening.open_video(str(folder / "list")) as video:
        assert video.container.format.name == "concat"
    assert refused(folder / "list")[0] == 400
    (folder / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{folder}/video.mp4\n#EXT-X-ENDLIST\n"
    )
    assert refused(folder / "list.m3u8")[0] == 400


def test_a_cut_video_names_no_path_of_the_server(folder):
    (folder / "cut").write_bytes((folder / "video.mp4").read_bytes()[:600])
    status, message = refused(folder / "cut")
    assert (status, str(folder) in message) == (400, False)


def test_long_videos_are_refused(folder):
    assert refused(folder / "video.mp4", Limits(max_duration_s=1.9)) == (
        413,
        "the video has 2.0 s; at most 1.9 s are allowed: cut it",
    )
    assert check(folder / "video.mp4", Limits(max_duration_s=2.0)).num_frames == 40


def test_unusual_frames_are_refused(folder):
    wide = write_video(folder / "wide.mp4", frames=2, width=640, height=64)
    status, message = refused(wide)
    assert (status, "640 x 64 pixels" in message) == (400, True)


@pytest.fixture
def decoded(monkeypatch):
    """Times of the frames that are decoded from now on."""
    times, decode_from = [], container.decode_from

    def decode(path, start_s):
        for frame in decode_from(path, start_s):
            times.append(frame.time)
            yield frame

    monkeypatch.setattr(container, "decode_from", decode)
    return times


def raw_stream(folder, frames):
    """A new file whose header has no length: 25 frames per second."""
    path = write_video(folder / f"{frames}.h264", frames=frames, rate=25)
    assert opening.duration_s(path) is None
    return path


def test_the_frames_of_a_file_without_a_length_are_counted_up_to_the_maximum_length(folder, decoded):
    path = raw_stream(folder, frames=40)
    assert refused(path, Limits(max_duration_s=1.0)) == (413, "the video has more than 1 s: cut it")
    assert len(decoded) == 27  # frame 26 is the first one after 1 s
    assert check(path, Limits(max_duration_s=1.6)).num_frames == 40


def test_the_number_of_counted_frames_has_a_maximum(folder, decoded, monkeypatch):
    """The times in a file may be wrong."""
    monkeypatch.setattr(video_check, "MAX_COUNTED_FPS", 10)
    status, message = refused(raw_stream(folder, frames=41), Limits(max_duration_s=3.0))
    assert (status, message.startswith("the video has more than 30 frames, 10 per second")) == (413, True)
    assert len(decoded) == 31


def test_a_stopped_job_counts_no_further_frames(folder, decoded):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        check(raw_stream(folder, frames=42), stop=stop)
    assert len(decoded) == 1
