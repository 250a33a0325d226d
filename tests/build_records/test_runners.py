import os
import signal

import pytest
from helpers.built_records import hashes
from helpers.video_files import write_video

from dist_jax.build_records import build_plan, command, runners, shards
from dist_jax.data import record_index
from dist_jax.errors import UserError
from dist_jax.video.video_list import VideoSegment


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


def save_plan(folder, num_shards):
    """A plan of the videos 0.mp4 to 19.mp4. Returns its OUTPUT/NAME."""
    segments = tuple(VideoSegment(f"{number}.mp4", "run") for number in range(20))
    plan = build_plan.BuildPlan(segments, ("run",), num_shards, 0.0, 256, 90)
    build_plan.save_plan(str(folder / "train"), plan, str(folder))
    return str(folder / "train")


def crash_with_video_7(prefix, number):
    """Builds shard 0. In shard 1, the decoder crashes."""
    if number == 1:
        runners._note_segment(7)
        os.kill(os.getpid(), signal.SIGKILL)
    return shards.ShardReport(number, 0, 0, 0, ())


@pytest.mark.slow
def test_the_error_of_a_worker_that_crashes_names_its_video(tmp_path, monkeypatch):
    monkeypatch.setattr(runners, "_build_in_worker", crash_with_video_7)
    with pytest.raises(
        UserError, match=r"may crash the decoder: repair or remove it: 7\.mp4 \(finished shards are kept"
    ):
        list(runners.run_processes(save_plan(tmp_path, 2), [0, 1], 2, lambda count: None))


def test_the_error_of_killed_workers_names_some_of_their_videos(tmp_path):
    prefix = save_plan(tmp_path, 2)
    assert "memory ran out: run again with fewer --workers (finished" in str(runners._killed(prefix, []))
    assert "remove it: 3.mp4, 4.mp4 (finished" in str(runners._killed(prefix, [4, 3]))
    assert "more" not in str(runners._killed(prefix, range(16)))
    assert " and 4 more (finished" in str(runners._killed(prefix, range(20)))


def test_a_shard_reports_the_position_of_each_segment_before_it_is_read(tmp_path):
    events = []
    shards.build_shard(save_plan(tmp_path, 8), 2, lambda: events.append("end"), events.append)
    assert events == [2, "end", 10, "end", 18, "end"]
