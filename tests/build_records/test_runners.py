import pytest
from helpers.built_records import hashes
from helpers.video_files import write_video

from dist_jax.build_records import __main__ as build_records
from dist_jax.build_records import runners, shards
from dist_jax.data import record_index
from dist_jax.errors import UserError


@pytest.fixture
def command(tmp_path):
    for count, name in enumerate("abcd", 3):
        write_video(tmp_path / f"{name}.mp4", frames=count)
    lines = "a.mp4 up\nb.mp4 down\nc.mp4 up\nd.mp4 down\nabsent.mp4 up\n"
    (tmp_path / "list.txt").write_text(lines)
    return ["--list", str(tmp_path / "list.txt"), "--shards=3", "--workers=1", "--output"]


def test_the_local_runner_builds_the_same_bytes(command, tmp_path):
    pytest.importorskip("apache_beam")
    assert build_records.main([*command, str(tmp_path / "alone")]) == 0
    assert (
        build_records.main([*command, str(tmp_path / "beam"), "--runner=DirectRunner", "--direct_num_workers=2"]) == 0
    )
    assert hashes(tmp_path / "beam") == hashes(tmp_path / "alone")
    for name in ("failed.csv", "labels.txt"):
        assert (tmp_path / "beam" / name).read_text() == (tmp_path / "alone" / name).read_text()
    assert len(record_index.load_index(str(tmp_path / "beam" / "train@3"))) == 4


def test_what_a_worker_says_is_one_line(command, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")

    def fail(prefix, number):
        raise UserError(f"{prefix}: shard {number} cannot be written (disk full)")

    monkeypatch.setattr(shards, "build_shard", fail)
    with pytest.raises(UserError, match=r"out/train: shard \d cannot be written \(disk full\)$"):
        build_records.main([*command, str(tmp_path / "out"), "--runner=DirectRunner"])


def test_the_line_is_found_in_a_runners_error():
    traceback = "Error: worker gone\n  File x\ndist_jax.errors.UserError: p: full (no space) [while running 'Build']\n"
    assert runners._told_by_worker(traceback + "\nmore") == "p: full (no space)"
    assert runners._told_by_worker("ValueError: no") == ""


def test_an_unknown_runner(command, tmp_path):
    pytest.importorskip("apache_beam")
    with pytest.raises(UserError, match="--runner=Direkt"):
        build_records.main([*command, str(tmp_path / "out"), "--runner=Direkt"])


def test_without_beam_the_message_says_what_to_install(command, tmp_path):
    try:
        import apache_beam  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="pip install apache-beam"):
            build_records.main([*command, str(tmp_path / "out"), "--runner=DirectRunner"])
    else:
        pytest.skip("apache-beam is installed")
