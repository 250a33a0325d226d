import pytest
from helpers.built_records import hashes
from helpers.video_files import write_video

from dist_jax.build_records import command, runners, shards
from dist_jax.data import record_index
from dist_jax.errors import UserError


@pytest.fixture
def arguments(tmp_path):
    """Arguments of a job with one missing video, without the value of --output."""
    for count, name in enumerate("abcd", 3):
        write_video(tmp_path / f"{name}.mp4", frames=count)
    lines = "a.mp4 up\nb.mp4 down\nc.mp4 up\nd.mp4 down\nabsent.mp4 up\n"
    (tmp_path / "list.txt").write_text(lines)
    return ["--list", str(tmp_path / "list.txt"), "--shards=3", "--workers=1", "--output"]


def test_beam_builds_the_same_bytes_as_local_processes(arguments, tmp_path):
    pytest.importorskip("apache_beam")
    assert command.main([*arguments, str(tmp_path / "local")]) == 0
    assert command.main([*arguments, str(tmp_path / "beam"), "--runner=DirectRunner", "--direct_num_workers=2"]) == 0
    assert hashes(tmp_path / "beam") == hashes(tmp_path / "local")
    for name in ("failed.csv", "labels.txt"):
        assert (tmp_path / "beam" / name).read_text() == (tmp_path / "local" / name).read_text()
    assert len(record_index.load_index(str(tmp_path / "beam" / "train@3"))) == 4


def test_the_error_of_a_beam_worker_is_one_line(arguments, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")

    def fail(prefix, number):
        raise UserError(f"{prefix}: shard {number} cannot be written (disk full)")

    monkeypatch.setattr(shards, "build_shard", fail)
    with pytest.raises(UserError, match=r"out/train: shard \d cannot be written \(disk full\)$"):
        command.main([*arguments, str(tmp_path / "out"), "--runner=DirectRunner"])


def test_the_message_of_a_worker_is_extracted_from_its_traceback():
    traceback = "Error: worker gone\n  File x\ndist_jax.errors.UserError: p: full (no space) [while running 'Build']\n"
    assert runners._worker_message(traceback + "\nmore") == "p: full (no space)"
    assert runners._worker_message("ValueError: no") == ""


def test_an_unknown_runner_is_rejected(arguments, tmp_path):
    pytest.importorskip("apache_beam")
    with pytest.raises(UserError, match="--runner=Direkt"):
        command.main([*arguments, str(tmp_path / "out"), "--runner=Direkt"])


def test_without_beam_the_error_names_the_package_to_install(arguments, tmp_path):
    try:
        import apache_beam  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="pip install apache-beam"):
            command.main([*arguments, str(tmp_path / "out"), "--runner=DirectRunner"])
    else:
        pytest.skip("apache-beam is installed")
