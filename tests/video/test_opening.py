"""Names of files, and which stream of a file is the video."""

import contextlib
import io
import os
import shutil
import socket
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from helpers.numbered_videos import add_stream, encode, frame_numbers, write_numbered, write_with_sound
from PIL import Image

from dist_jax.video import opening
from dist_jax.video.container import decode_live
from dist_jax.video.decoding import VideoError, decode_frames, iter_frames, probe
from dist_jax.video.opening import open_live

CASES = Path(__file__).parents[1] / "cases"
ALL_READERS = (probe, lambda path: list(iter_frames(path)), lambda path: decode_frames(path, [0]))


@pytest.mark.parametrize(
    "name",
    [
        "12:30:15.mp4",
        "file:x.mp4",
        "http:x.mp4",
        "50%d.mp4",
        "%03d.mp4",
        "pipe:0",
        "a?b=1#2.mp4",
        "concat:a|b",
        "é .mp4",
    ],
)
def test_a_local_file_is_read_whatever_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(CASES / "upright.mp4", name)
    for path in (name, str(tmp_path / name)):
        assert probe(path).num_frames == 12
        assert len(list(iter_frames(path, 0.2))) == 7
        assert len(decode_frames(path, [3, 11])) == 2


def test_a_name_that_is_not_utf8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    shutil.copy(CASES / "upright.mp4", path)
    assert probe(path).num_frames == len(list(iter_frames(path))) == 12


@pytest.mark.parametrize("name", ["12:30:15.mp4", "file:x.mp4", "http:x.mp4", "absent.mp4"])
def test_an_absent_local_file_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for read in ALL_READERS:
        with pytest.raises(VideoError, match=f"^{name}: no such file$"):
            read(name)


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for read in ALL_READERS:
        with pytest.raises(VideoError, match=r"pipe\.mp4: cannot be read \(not a file\)"):
            read(str(tmp_path / "pipe.mp4"))


@pytest.mark.skipif(sys.platform != "linux", reason="the names of pipes and cameras")
def test_a_pipe_in_dev_is_a_live_stream_and_no_camera(tmp_path):
    data = Path(write_numbered(tmp_path / "a.ts")).read_bytes()
    read_end, write_end = os.pipe()

    def write():
        with contextlib.suppress(BrokenPipeError), os.fdopen(write_end, "wb") as file:
            file.write(data)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        times = [frame.time for frame in decode_live(f"/dev/fd/{read_end}", 10)]
    finally:
        os.close(read_end)
        writer.join(timeout=10)
    assert len(times) == 60


@pytest.mark.skipif(sys.platform != "linux", reason="the format of cameras")
def test_cameras_and_links_to_them_are_opened_with_the_format_of_cameras(tmp_path, monkeypatch):
    formats = []

    def stub(name, mode, format, **options):
        formats.append(format)
        raise OSError("stub")

    monkeypatch.setattr(av, "open", stub)
    (tmp_path / "front-door").symlink_to("/dev/video99")
    for name in ("/dev/video99", str(tmp_path / "front-door"), "/dev/stdin", "rtsp://host/dev/video0"):
        with pytest.raises(VideoError, match="cannot be read"), open_live(name, 10):
            pass
    assert formats == ["v4l2", "v4l2", None, None]


def test_a_song_with_cover_art_has_no_video_stream():
    for read in ALL_READERS:
        with pytest.raises(VideoError, match=r"song_with_cover\.mp4: no video stream"):
            read(str(CASES / "song_with_cover.mp4"))


@pytest.mark.parametrize("cover_is_first", [True, False])
def test_a_video_with_cover_art(cover_is_first, tmp_path):
    path = str(tmp_path / "a.mp4")
    with av.open(path, "w") as container:
        first = container.add_stream("mjpeg", rate=1) if cover_is_first else None
        stream = add_stream(container, "libx264")
        cover = first or container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 640, 480, "yuvj420p"  # larger than the video
        cover.disposition = Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.full((480, 640, 3), 90, np.uint8), "rgb24")
        for packet in [*cover.encode(picture), *cover.encode(), *encode(stream, range(20))]:
            container.mux(packet)
    assert frame_numbers(frame for _, frame in iter_frames(path)) == list(range(20))
    assert (probe(path).num_frames, probe(path).width) == (20, 128)


def test_a_matroska_video_with_an_attached_picture(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (640, 480)).save(picture, "JPEG")
    path = str(tmp_path / "a.mkv")
    with av.open(path, "w") as container:
        container.add_attachment("cover.jpg", "image/jpeg", picture.getvalue())
        stream = add_stream(container, "libx264")
        for packet in encode(stream, range(20)):
            container.mux(packet)
    assert frame_numbers(frame for _, frame in iter_frames(path)) == list(range(20))


def test_of_several_videos_the_largest_default_one_is_read_as_by_ffmpeg(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = [add_stream(container, "libx264") for _ in range(3)]
        streams[0].width, streams[2].width = 64, 64
        streams[0].disposition = streams[1].disposition = Disposition.default
        for stream in streams:
            for index in range(5):
                pixels = np.full((stream.height, stream.width, 3), 100, np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
                frame.pts = index
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    assert probe(str(tmp_path / "a.mkv")).width == 128


def test_metadata_that_is_not_utf8(tmp_path):
    path = write_numbered(tmp_path / "a.mp4", num_frames=3)
    data = Path(path).read_bytes()
    assert b"VideoHandler" in data
    Path(path).write_bytes(data.replace(b"VideoHandler", b"Vid\xe9oHandler"))
    assert probe(path).num_frames == 3


def test_a_stream_that_appears_later_is_ignored(tmp_path):
    parts = [
        write_numbered(tmp_path / "video.ts", rate=1),  # 60 s: FFmpeg looks for streams in the first seconds
        write_with_sound(tmp_path / "sound.ts", "libx264", delay=0.0),
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(Path(part).read_bytes() for part in parts))
    assert probe(str(path)).num_frames == len(list(iter_frames(str(path)))) == 120


def test_a_server_that_stalls_is_an_error(monkeypatch):
    monkeypatch.setattr(opening, "_HTTP_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts connections and sends nothing
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4"
        with pytest.raises(VideoError, match=rf"^{url}: cannot be read \(the source sends no data\)$"):
            probe(url)
