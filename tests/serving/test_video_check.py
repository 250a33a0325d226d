"""Tests of dist_jax.serving.video_check: what an upload may be."""

from pathlib import Path

import pytest
from helpers.video_files import write_video

from dist_jax.serving.limits import Limits, RequestError
from dist_jax.serving.video_check import check_video
from dist_jax.video import opening


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a video of two seconds, 64 x 48 pixels."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "video.mp4")
    return folder


def refused(path, limits=None):
    """Status and message."""
    with pytest.raises(RequestError) as error:
        check_video(str(path), limits or Limits())
    assert "\n" not in str(error.value)
    return error.value.status, str(error.value)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "mpg", "mov", "flv"])
def test_videos_are_recognised_by_their_content(folder, suffix):
    codec = {"mpg": "mpeg2video", "avi": "mpeg4", "flv": "flv"}.get(suffix, "libx264")
    path = write_video(folder / f"any.{suffix}", frames=25, rate=25, codec=codec)
    (folder / "without_suffix").write_bytes(Path(path).read_bytes())
    info = check_video(str(folder / "without_suffix"), Limits())
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
    assert check_video(str(folder / "video.mp4"), Limits(max_duration_s=2.0)).num_frames == 40


def test_unusual_frames_are_refused(folder):
    wide = write_video(folder / "wide.mp4", frames=2, width=640, height=64)
    status, message = refused(wide)
    assert (status, "640 x 64 pixels" in message) == (400, True)
