import pytest
from built_records import hashes
from video_files import write_video

from dist_jax import build_records
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
