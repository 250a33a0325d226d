import os
import sys

import pytest

from dist_jax.errors import UserError
from dist_jax.video.class_folders import SkippedFile, _warn_of_missing_classes, count_reasons, read_folders
from dist_jax.video.video_list import VideoSegment


@pytest.fixture
def folder(tmp_path):
    """A function that creates empty files and returns their folder."""

    def make(*paths):
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
        return str(tmp_path)

    return make


def test_the_label_of_a_video_is_the_name_of_its_folder(folder):
    found = read_folders(folder("run/b.mp4", "run/a.AVI", "jump high/c.webm", "run/12:30.mp4", "run/50%.mp4"))
    assert found.segments == [
        VideoSegment("jump high/c.webm", "jump high"),
        *(VideoSegment(f"run/{name}", "run") for name in ("12:30.mp4", "50%.mp4", "a.AVI", "b.mp4")),
    ]
    assert found.skipped == []


@pytest.mark.parametrize("suffix", [".mts", ".m2ts", ".MTS", ".ogv", ".gif", ".vob", ".3g2", ".asf", ".mxf", ".Mpeg"])
def test_every_suffix_of_a_video_makes_a_class(folder, suffix):
    assert [segment.path for segment in read_folders(folder(f"run/a{suffix}")).segments] == [f"run/a{suffix}"]


def test_every_other_file_has_a_reason(folder):
    files = ("run/a.mp4", "run/n.txt", "run/m.TXT", "run/LICENSE", "run/.b.mp4", ".x/c.mp4", "d.mp4", "run/e/f.mp4")
    found = read_folders(folder(*files, "run/e/g.json"))
    assert [segment.path for segment in found.segments] == ["run/a.mp4"]
    assert {file.path: file.reason for file in found.skipped} == {
        "run/n.txt": ".txt",
        "run/m.TXT": ".txt",
        "run/LICENSE": "without suffix",
        "run/.b.mp4": "hidden",
        ".x/c.mp4": "hidden",
        "d.mp4": "outside the class folders",
        "run/e/f.mp4": "in a subfolder of a class folder",
        "run/e/g.json": ".json",
    }


def test_reasons_are_counted():
    skipped = [SkippedFile("a", "hidden"), SkippedFile("b", ".txt"), SkippedFile("c", ".txt")]
    assert count_reasons(skipped) == "2 .txt, 1 hidden"


def test_a_folder_that_is_no_class_is_a_warning(folder, capsys):
    path = folder("run/a.mp4", "notes/a.txt", "notes/b.txt", "walk/part/c.mp4")
    os.mkdir(f"{path}/empty")
    assert {segment.label for segment in read_folders(path).segments} == {"run"}
    assert capsys.readouterr().err == (
        f"warning: {path}: subfolders without videos are not classes: empty (empty), notes (2 .txt), "
        "walk (1 in a subfolder of a class folder)\n"
    )


def test_the_files_of_folders_without_videos_are_grouped_in_one_pass(folder, capsys):
    path = folder("run/a.mp4", "x/a.txt", "y/a.txt", "y/b.txt", "z/a.txt")
    skipped = (SkippedFile(name, ".txt") for name in ("x/a.txt", "y/a.txt", "y/b.txt", "z/a.txt"))
    _warn_of_missing_classes(path, [VideoSegment("run/a.mp4", "run")], skipped)
    assert "are not classes: x (1 .txt), y (2 .txt), z (1 .txt)" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "darwin", reason="all file names are UTF-8")
def test_names_that_are_not_utf8_are_skipped_and_listed(folder, capsys):
    path = folder("run/a.mp4")
    for name in (b"run/caf\xe9.mp4", b"na\xefve/b.mp4"):
        os.makedirs(os.path.dirname(os.path.join(os.fsencode(path), name)), exist_ok=True)
        with open(os.path.join(os.fsencode(path), name), "w"):
            pass
    found = read_folders(path)
    assert [segment.path for segment in found.segments] == ["run/a.mp4"]
    assert [file.reason for file in found.skipped] == ["with a name that is not UTF-8"] * 2
    printed = capsys.readouterr().err
    assert r"run/caf\xe9.mp4" in printed and r"na\xefve/b.mp4" in printed and printed.isascii()


def test_links_are_followed_but_loops_and_devices_are_not(folder, tmp_path):
    path = folder("in/run/a.mp4", "other/b.mp4", "other/deep/c.mp4")
    root = tmp_path / "in"
    (root / "walk").symlink_to(tmp_path / "other")
    (root / "run" / "linked.mp4").symlink_to("a.mp4")
    (root / "run" / "broken.mp4").symlink_to("absent")
    (root / "run" / "itself.mp4").symlink_to("itself.mp4")
    (root / "run" / "up").symlink_to(root)
    (tmp_path / "other" / "deep" / "back").symlink_to(root / "run")  # run/ is linked, run/up is a loop
    os.mkfifo(root / "run" / "pipe.mp4")
    found = read_folders(f"{path}/in")
    names = ["run/a.mp4", "run/broken.mp4", "run/itself.mp4", "run/linked.mp4", "walk/b.mp4"]
    assert [segment.path for segment in found.segments] == names
    reasons = {file.path: file.reason for file in found.skipped}
    assert reasons["run/pipe.mp4"] == "pipe or device"
    assert reasons["run/up"] == reasons["walk/deep/back/up"] == "link to a folder that contains it"
    assert reasons["walk/deep/c.mp4"] == "in a subfolder of a class folder"


def test_folders_without_videos_are_rejected(folder, tmp_path):
    with pytest.raises(
        UserError, match=r"no subfolder contains videos .*other files: 1 outside the class folders, 1 \.txt"
    ):
        read_folders(folder("a.mp4", "run/b.txt"))
    with pytest.raises(UserError, match="no such folder"):
        read_folders(str(tmp_path / "absent"))
