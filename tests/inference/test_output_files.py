"""Output files: atomic writing, pipes and links, errors."""

import os
import sys

import pytest

from dist_jax.errors import UserError
from dist_jax.inference.output_files import open_output, write_output


def test_a_file_is_replaced_when_its_text_is_complete(tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    path.write_text("old")
    replaced, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda *names: (replaced.append(path.read_text()), replace(*names)))
    write_output("--json", str(path), "new")
    assert (replaced, path.read_text()) == (["old"], "new")
    assert list(tmp_path.iterdir()) == [path]


def test_links_and_devices_are_written_and_not_replaced(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    write_output("--json", str(link), "text")
    assert (link.is_symlink(), target.read_text()) == (True, "text")
    write_output("--json", os.devnull, "text")
    assert not os.path.isfile(os.devnull)


def test_a_missing_folder_is_an_error(tmp_path):
    path = str(tmp_path / "missing" / "out")
    with pytest.raises(UserError, match=r"^--json .*missing/out: cannot be written"):
        write_output("--json", path, "text")
    with pytest.raises(UserError, match=r"^--csv .*missing/out: .*No such file"), open_output("--csv", path):
        pass


def test_errors_of_other_files_are_not_those_of_the_output(tmp_path):
    with pytest.raises(BrokenPipeError), open_output("--csv", str(tmp_path / "out.csv")) as file:
        file.write("start,end\n")
        raise BrokenPipeError
    assert (tmp_path / "out.csv").read_text() == "start,end\n"


@pytest.mark.skipif(sys.platform != "linux", reason="no /dev/full")
def test_a_full_disk_is_an_error_of_the_output():
    with (
        pytest.raises(UserError, match=r"^--csv /dev/full: .*No space left"),
        open_output("--csv", "/dev/full") as file,
    ):
        file.write("text")
