import os
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from dist_jax import files
from dist_jax.errors import UserError


@pytest.mark.parametrize(
    ("path", "is_remote"),
    [
        ("gs://bucket/a.mp4", True),
        ("https://host/a.mp4", True),
        ("12:30:15.mp4", False),
        ("file:x.mp4", False),
        ("http:x.mp4", False),
        ("folder/gs://bucket", False),
        ("100%.mp4", False),
    ],
)
def test_a_path_with_a_scheme_is_remote(path, is_remote):
    assert files.is_remote(path) == is_remote
    assert files.join("folder", path) == (path if is_remote else f"folder/{path}")


def test_an_existing_local_file_is_not_remote(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("gs:/bucket")
    assert not files.is_remote("gs://bucket") and files.is_remote("gs://other")


def test_an_unknown_file_system_is_rejected():
    for function in (files.exists, files.list_entries, files.list_names, files.size_and_mtime):
        with pytest.raises(UserError, match=r"^unknown://host/a: cannot be read"):
            function("unknown://host/a")


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert files.user_path("~/x") == "/home/me/x"
    assert [files.user_path(path) for path in ("", "x/~", "~nobody-has-this-name", "NAME@4")] == [
        *("", "x/~", "~nobody-has-this-name", "NAME@4")
    ]


def test_a_path_that_is_not_utf8_is_rejected():
    with pytest.raises(UserError, match="this path is not UTF-8"):
        files.user_path(os.fsdecode(b"caf\xe9.mp4"))


def test_every_file_of_a_folder_is_found_once(tmp_path):
    for path in ("b.txt", ".hidden/c", "a/d", "a/b/e"):
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / path).touch()
    (tmp_path / "in" / "loop").symlink_to(".")
    (tmp_path / "in" / "same").symlink_to("b.txt")
    assert sorted(files.walk_files(str(tmp_path / "in"))) == [
        (".hidden/c", ""),
        ("a/b/e", ""),
        ("a/d", ""),
        ("b.txt", ""),
        ("loop", "link to a folder that contains it"),
        ("same", ""),
    ]


def test_folders_that_link_to_each_other_are_walked_once(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        (tmp_path / name / "link").symlink_to(tmp_path / other)
    assert sorted(file.path for file in files.walk_files(str(tmp_path))) == [
        *("a/file", "a/link/file", "a/link/link", "b/file", "b/link/file", "b/link/link")
    ]


def test_a_subfolder_that_cannot_be_read_is_left_out_with_a_warning(tmp_path, monkeypatch, capsys):
    for path in ("a/b", "lost+found/c", "z/deep/d", "z/e"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) in ("lost+found", "deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root can read every folder
    assert [file.path for file in files.walk_files(str(tmp_path))] == ["a/b", "z/e"]
    assert capsys.readouterr().err.splitlines() == [
        f"warning: skipped a folder: {tmp_path}/{name}: cannot be read (Permission denied)"
        for name in ("lost+found", "z/deep")
    ]
    with pytest.raises(UserError, match=r"lost\+found: cannot be read"):
        list(files.walk_files(str(tmp_path / "lost+found")))


def test_an_absent_folder_is_rejected(tmp_path):
    with pytest.raises(UserError, match="absent: cannot be read"):
        files.list_entries(str(tmp_path / "absent"))


@pytest.mark.skipif(sys.platform == "darwin", reason="all file names are UTF-8")
def test_names_that_are_not_utf8_are_listed(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9", "w"):
        pass
    (name,) = files.list_entries(str(tmp_path)).files
    assert not files.is_utf8(name) and files.list_names(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ntwo \xe9\n", "line 2: not UTF-8 text"),
        (b"\xff\xfea\0", "line 1: not UTF-8"),
        (b"a\0b", "has zero bytes"),
    ],
)
def test_text_in_another_encoding_is_rejected(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=message):
        files.read_text(str(tmp_path / "x"))


def test_a_new_folder_appears_only_when_it_is_complete(tmp_path):
    with files.new_folder(tmp_path / "out") as folder:
        (folder / "file").touch()
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(UserError, match=r"out exists and is not empty; use another --output"):
        files.check_new_folder(tmp_path / "out")


def test_nothing_remains_of_a_new_folder_that_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.new_folder(tmp_path / "out"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_the_current_folder_can_be_a_new_folder(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    with files.new_folder(Path()) as folder:
        (folder / "a").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "a").exists()


@pytest.mark.parametrize("write", [files.write_bytes, lambda path, data: files.write_text(path, data.decode())])
@pytest.mark.parametrize("failing", [(os, "replace"), (tf.io.gfile, "rename")])
def test_nothing_remains_of_a_file_that_cannot_be_written(write, failing, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    folder = str(tmp_path) if failing[0] is os else "ram://full"
    files.make_folder(folder)
    monkeypatch.setattr(*failing, fail)
    with pytest.raises(UserError, match=r"/a: cannot be written \(No space left on device\)$"):
        write(f"{folder}/a", b"text")
    assert files.list_names(folder) == []


def test_a_file_is_deleted_if_it_exists(tmp_path):
    for folder in (str(tmp_path), "ram://remove"):
        files.make_folder(folder)
        files.write_text(f"{folder}/a", "")
        for _ in range(2):
            files.remove(f"{folder}/a")
            assert not files.exists(f"{folder}/a")
    with pytest.raises(UserError, match="cannot be deleted"):
        files.remove(str(tmp_path))
