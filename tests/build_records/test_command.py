import csv
import fcntl
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf
from helpers.built_records import examples, hashes, images, integers
from helpers.video_files import numbers, write_video

from dist_jax import files
from dist_jax.build_records import build_plan, command, jobs, shards
from dist_jax.data import record_index, records
from dist_jax.errors import UserError, exit_with_message
from dist_jax.video.video_list import VideoSegment


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Six videos at 20 frames per second: a.mp4 has 10 frames, b.mp4 11, ..."""
    folder = tmp_path_factory.mktemp("videos")
    for count, name in enumerate("abcdef", 10):
        write_video(folder / f"{name}.mp4", frames=count)
    return folder


@pytest.fixture
def build(videos, tmp_path):
    """Runs the command in this process with a list of these lines. Returns the output folder."""

    def run(*options, lines="a.mp4 up\nb.mp4 down\nc.mp4 up\nd.mp4 down\n", name="train"):
        (tmp_path / "list.txt").write_text(lines)
        arguments = ["--videos", videos, "--list", tmp_path / "list.txt", "--output", tmp_path / "out", "--name", name]
        assert command.main([str(word) for word in [*arguments, "--workers=1", *options]]) == 0
        return tmp_path / "out"

    return run


def failures(output):
    with open(output / "failed.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_records_contain_all_frames_the_label_and_the_source(build):
    output = build()
    by_filename = examples(output)
    assert sorted(by_filename) == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    assert (output / "labels.txt").read_text() == "down\nup\n"
    example = by_filename["c.mp4"]
    assert integers(example, records.LABEL) == [1]
    assert example.context.feature[records.LABEL_TEXT].bytes_list.value[0] == b"up"
    assert integers(example, records.START) == [0] and integers(example, records.END) == [600_000]
    assert numbers(images(example)) == list(range(12))
    assert images(example)[0].shape == (48, 64, 3)
    assert not (output / "failed.csv").exists()


def test_the_index_has_every_record(build):
    output = build("--shards=3")
    index = record_index.load_index(str(output / "train@3"))
    assert len(index) == 4 and len(index.paths) == 3
    index.verify()


def test_frame_rate_size_and_quality_are_options(build):
    example = examples(build("--fps=10", "--short-side=24", "--quality=30"))["c.mp4"]
    assert numbers(images(example)) == [0, 2, 4, 6, 8, 10]
    assert images(example)[0].shape == (24, 32, 3)
    assert integers(example, records.END) == [600_000]


def test_segments_and_captions_of_a_csv_list(build):
    lines = "path,label,start,end,caption\nf.mp4,up,0.2,0.5,a dot grows\nf.mp4,down,0.5,,\n"
    (shard,) = records.find_shards(str(build("--shards=1", lines=lines) / "train"))
    parsed = [tf.train.SequenceExample.FromString(r.numpy()) for r in tf.data.TFRecordDataset(shard)]
    first, second = sorted(parsed, key=lambda example: integers(example, records.START))
    assert numbers(images(first)) == list(range(4, 10))
    assert numbers(images(second)) == list(range(10, 15))
    assert [integers(first, key) for key in (records.START, records.END)] == [[200_000], [500_000]]
    assert [integers(second, key) for key in (records.START, records.END)] == [[500_000], [750_000]]
    assert first.context.feature[records.CAPTION].bytes_list.value[0] == b"a dot grows"
    assert records.CAPTION not in second.context.feature


def test_the_column_labels_gives_records_several_labels_or_none(build, capsys):
    lines = "path,labels\na.mp4,up|left\nb.mp4,\nc.mp4,up\nabsent.mp4,down|up\n"
    output = build(lines=lines)
    by_filename = examples(output)
    assert (output / "labels.txt").read_text() == "down\nleft\nup\n"
    labels = {name: integers(example, records.LABEL) for name, example in by_filename.items()}
    assert labels == {"a.mp4": [2, 1], "b.mp4": [], "c.mp4": [2]}
    assert list(by_filename["a.mp4"].context.feature[records.LABEL_TEXT].bytes_list.value) == [b"up", b"left"]
    assert failures(output)[0]["label"] == "down|up"
    assert "classes without a readable video: down (1 failed)\n" in capsys.readouterr().err
    before = hashes(output)
    build(lines=lines)  # resumes: the plan is the same
    assert hashes(output) == before


def test_without_a_list_the_folders_are_the_classes(videos, tmp_path):
    for label, name in (("moves up", "a"), ("moves down", "b")):
        (tmp_path / "in" / label).mkdir(parents=True)
        os.link(videos / f"{name}.mp4", tmp_path / "in" / label / f"{name}.mp4")
    command.main(["--videos", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--workers=1"])
    by_filename = examples(tmp_path / "out")
    assert {name: integers(example, records.LABEL) for name, example in by_filename.items()} == {
        "moves up/a.mp4": [1],
        "moves down/b.mp4": [0],
    }


def test_the_summary_of_a_folder_accounts_for_every_file(videos, tmp_path, capsys):
    folder = tmp_path / "in" / "up"
    (folder / "part").mkdir(parents=True)
    for name in ("a.mp4", "b.MP4", "100%.mp4", ".hidden.mp4", "part/c.mp4"):
        os.link(videos / "a.mp4", folder / name)
    for name in ("one.txt", "two.TXT", "meta.json", "empty.mp4", "../outside.mp4"):
        (folder / name).touch()
    (folder / "broken.mp4").symlink_to("absent.mp4")
    (folder / "up").symlink_to("..")
    (folder / "text.gif").write_text("no animation")
    arguments = ["--videos", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--workers=1"]
    command.main(arguments)
    printed = capsys.readouterr().out
    assert "13 files found: 3 read, 3 failed, 7 skipped" in printed
    assert "skipped: 2 .txt, 1 outside the class folders, 1 hidden, 1 .json, 1 in a subfolder of a class" in printed
    assert sorted(row["path"] for row in failures(tmp_path / "out")) == ["up/broken.mp4", "up/empty.mp4", "up/text.gif"]
    with open(tmp_path / "out" / "skipped.csv", newline="") as file:
        reasons = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert len(reasons) == 7
    assert reasons["outside.mp4"] == "outside the class folders"
    assert reasons["up/part/c.mp4"] == "in a subfolder of a class folder"
    command.main([*arguments, "--shards=1"])  # resumed
    assert "13 files found: 3 read, 3 failed, 7 skipped" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "darwin", reason="all file names are UTF-8")
def test_names_that_are_not_utf8_are_skipped_and_listed(videos, tmp_path, capsys):
    (tmp_path / "in" / "up").mkdir(parents=True)
    os.link(videos / "a.mp4", tmp_path / "in" / "up" / "a.mp4")
    os.link(os.fsencode(videos / "b.mp4"), os.fsencode(tmp_path / "in" / "up") + b"/caf\xe9.mp4")
    command.main(["--videos", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--workers=1"])
    captured = capsys.readouterr()
    assert "2 files found: 1 read, 0 failed, 1 skipped" in captured.out
    assert r"up/caf\xe9.mp4" in captured.err
    assert (tmp_path / "out" / "skipped.csv").read_text() == (
        "name,path,reason\ntrain,up/caf\\xe9.mp4,with a name that is not UTF-8\n"
    )
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9")
    with pytest.raises(UserError, match="this path is not UTF-8; rename"):
        command.main(["--videos", folder, "--output", str(tmp_path / "out")])


def test_a_tilde_is_the_home_folder(videos, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    os.link(videos / "a.mp4", tmp_path / "a.mp4")
    (tmp_path / "list.txt").write_text("~/a.mp4 up\n")
    (tmp_path / "names.txt").write_text("up\n")
    command.main(["--list=~/list.txt", "--labels=~/names.txt", "--output=~/out", "--videos=~", "--workers=1"])
    assert sorted(examples(tmp_path / "out")) == [f"{tmp_path}/a.mp4"]


def test_a_class_name_that_a_text_file_cannot_contain_is_rejected(videos, tmp_path):
    (tmp_path / "in" / "up ").mkdir(parents=True)
    os.link(videos / "a.mp4", tmp_path / "in" / "up " / "a.mp4")
    with pytest.raises(UserError, match=r"class name 'up ' .* ends with a space"):
        command.main(["--videos", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--workers=1"])


def test_videos_and_records_on_a_remote_file_system(videos, tmp_path):
    """ram:// is an in-memory file system of TensorFlow. gs:// uses the same code."""
    for label, name in (("up", "a"), ("down", "b")):
        tf.io.gfile.makedirs(f"ram://in/{label}")
        tf.io.gfile.copy(str(videos / f"{name}.mp4"), f"ram://in/{label}/{name}.mp4", overwrite=True)
    arguments = ["--videos=ram://in", "--output=ram://out", "--workers=1", "--shards=2"]
    assert command.main(arguments) == 0
    assert command.main(arguments) == 0  # resumes the finished job
    index = record_index.load_index("ram://out/train@2")
    data = b"".join(record.numpy() for record in tf.data.TFRecordDataset(index.paths))
    assert len(index) == 2 and b"up/a.mp4" in data and b"down/b.mp4" in data


@pytest.mark.slow
def test_the_shards_do_not_depend_on_the_number_of_workers(build):
    expected = hashes(build("--shards=3"))
    assert hashes(build("--shards=3", "--workers=2", "--overwrite")) == expected


def test_the_shards_do_not_depend_on_the_order_of_the_list(build):
    lines = "a.mp4 up\nb.mp4 down\nc.mp4 up\n"
    expected = hashes(build("--shards=2", lines=lines))
    assert hashes(build("--shards=2", "--overwrite", lines="".join(reversed(lines.splitlines(True))))) == expected


def test_segments_are_distributed_evenly_over_the_shards():
    segments = [VideoSegment(f"{number}.mp4", "x") for number in range(100)]
    plan = build_plan.BuildPlan(build_plan.shuffle_by_hash(segments), ("x",), 8, 0.0, 256, 90)
    shards = [plan.shard_segments(shard) for shard in range(8)]
    assert sorted(s.path for shard in shards for s in shard) == sorted(s.path for s in segments)
    assert {len(shard) for shard in shards} == {12, 13}
    assert plan.segments != tuple(segments)


def test_segments_without_narration_ids_keep_their_shards():
    listed = [VideoSegment(f"{n}.mp4", "ab"[n % 2], float(n), None, "c") for n in range(8)]
    epic = [VideoSegment(f"{n}.mp4", None, None, None, None, n, 2, f"key {n}") for n in range(8)]
    orders = ["".join(segment.path[0] for segment in build_plan.shuffle_by_hash(part)) for part in (listed, epic)]
    assert orders == ["46752130", "51204637"]  # computed before segments had narration ids


def test_a_plan_keeps_its_segments_and_plans_without_narration_ids_are_read(tmp_path):
    segments = (VideoSegment("a.mp4", "x", narration_id="P01_01_3"), VideoSegment("b.mp4", None, verb=1, key="b"))
    segments += (VideoSegment("c.mp4", "x", other_labels=("y", "z")),)
    plan = build_plan.BuildPlan(segments, ("x",), 1, 0.0, 256, 90)
    build_plan.save_plan(str(tmp_path / "train"), plan, "videos")
    assert build_plan.load_plan(str(tmp_path / "train")) == (plan, "videos")
    path = tmp_path / ".train.build" / "plan.jsonl"
    settings_line, *_ = path.read_text().splitlines()
    path.write_text(f'{settings_line}\n["b.mp4", null, null, null, null, 1, null, "b"]\n')
    assert build_plan.load_plan(str(tmp_path / "train"))[0].segments == segments[1:2]


BROKEN = "a.mp4 up\nb.mp4 down\nabsent.mp4 up\ntext.mp4 down\n"


def test_unreadable_videos_are_listed_and_the_others_are_built(build, videos, capsys):
    (videos / "text.mp4").write_text("not a video")
    output = build("--shards=2", lines=BROKEN)
    assert sorted(examples(output)) == ["a.mp4", "b.mp4"]
    rows = {row["path"]: row for row in failures(output)}
    assert sorted(rows) == ["absent.mp4", "text.mp4"]
    assert "no such file" in rows["absent.mp4"]["reason"] and "cannot be read" in rows["text.mp4"]["reason"]
    assert rows["text.mp4"]["name"] == "train" and rows["text.mp4"]["label"] == "down"
    captured = capsys.readouterr()
    assert "2 videos, 21 frames" in captured.out and "unreadable videos: 2 of 4; see" in captured.err


def test_a_class_without_a_readable_video_is_a_warning(build, capsys):
    build(lines="a.mp4 up\nabsent.mp4 down\nb.mp4 left\nmissing.mp4 left\n")
    assert "warning: classes without a readable video: down (1 failed)\n" in capsys.readouterr().err


def test_more_failures_than_max_failures_stop_the_job(build, videos):
    (videos / "text.mp4").write_text("not a video")
    build("--max-failures=2", lines=BROKEN)
    with pytest.raises(UserError, match=r"unreadable videos: 2 of 4, more than --max-failures 1; see .*failed.csv"):
        build("--max-failures=1", lines=BROKEN)


def test_failed_csv_is_not_written_after_every_shard(build, monkeypatch):
    calls = []
    monkeypatch.setattr(command, "_FAILURE_LIST_INTERVAL_S", math.inf)
    write = jobs.write_failures
    monkeypatch.setattr(jobs, "write_failures", lambda *arguments: (calls.append(1), write(*arguments)))
    output = build("--shards=4", lines="a.mp4 up\nb.mp4 up\nabsent.mp4 up\nmissing.mp4 up\n")
    assert len(failures(output)) == 2 and len(calls) == 1


def test_retry_failed_rebuilds_only_the_shards_with_failures(build, videos):
    (videos / "later.mp4").unlink(missing_ok=True)
    lines = "a.mp4 up\nb.mp4 down\nlater.mp4 up\n"
    output = build("--shards=3", lines=lines)
    before = {path: os.stat(path).st_mtime_ns for path in records.find_shards(str(output / "train"))}
    write_video(videos / "later.mp4", frames=5)
    build("--shards=3", lines=lines)
    assert sorted(examples(output)) == ["a.mp4", "b.mp4"]
    build("--shards=3", "--retry-failed", lines=lines)
    assert sorted(examples(output)) == ["a.mp4", "b.mp4", "later.mp4"]
    assert failures(output) == []
    assert len(record_index.load_index(str(output / "train@3"))) == 3
    assert sum(os.stat(path).st_mtime_ns != mtime for path, mtime in before.items()) == 1


def test_retry_failed_builds_a_video_of_a_data_set_that_was_added_later(tmp_path):
    """The path of a video is unknown while it is missing. The plan is equal nevertheless."""
    (tmp_path / "train.csv").write_text(
        "label,youtube_id,time_start,time_end\nyoga,aaa,0,1\nzumba,bbb,0,1\nyoga,ccc,1,2\n"
    )
    for label in ("yoga", "zumba"):
        (tmp_path / "videos" / label).mkdir(parents=True)
    write_video(tmp_path / "videos" / "yoga" / "aaa_000000_000001.mp4", frames=3)
    arguments = ["--dataset=kinetics400", "--annotations", tmp_path, "--videos", tmp_path / "videos", "--workers=1"]
    arguments = [str(word) for word in [*arguments, "--shards=3", "--output", tmp_path / "out"]]
    command.main(arguments)
    assert sorted(examples(tmp_path / "out")) == ["yoga/aaa_000000_000001.mp4"]
    write_video(tmp_path / "videos" / "zumba" / "bbb_000000_000001.mp4", frames=4)
    write_video(tmp_path / "videos" / "yoga" / "ccc.mp4", frames=41)  # the full YouTube video
    command.main(arguments)  # keeps the finished shards
    assert len(examples(tmp_path / "out")) == 1
    command.main([*arguments, "--retry-failed"])
    by_filename = examples(tmp_path / "out")
    assert sorted(by_filename) == ["yoga/aaa_000000_000001.mp4", "yoga/ccc.mp4", "zumba/bbb_000000_000001.mp4"]
    assert numbers(images(by_filename["yoga/ccc.mp4"])) == list(range(20, 40))
    assert failures(tmp_path / "out") == []
    command.main([*arguments[:-1], str(tmp_path / "uninterrupted")])
    assert hashes(tmp_path / "out") == hashes(tmp_path / "uninterrupted")


def test_the_default_name_of_a_data_set_is_its_split(tmp_path):
    (tmp_path / "val.csv").write_text("label,youtube_id,time_start,time_end\nyoga,aaa,0,1\n")
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "aaa_000000_000001.mp4", frames=3)
    arguments = ["--dataset=kinetics400", "--annotations", tmp_path, "--videos", tmp_path / "videos", "--split=val"]
    command.main([str(word) for word in [*arguments, "--workers=1", "--output", tmp_path / "out"]])
    assert sorted(hashes(tmp_path / "out", "val")) == ["val-00000-of-00001"]


def test_overwrite_keeps_class_names_that_other_records_use(build):
    output = build()
    build("--labels", output / "labels.txt", lines="e.mp4 up\n", name="val")
    before = hashes(output, "val")
    with pytest.raises(
        UserError, match=r"differ from the 1 class name of this job and are used by train. Add --labels"
    ):
        build("--overwrite", lines="e.mp4 up\n", name="val")
    assert hashes(output, "val") == before
    assert (output / "labels.txt").read_text() == "down\nup\n"
    build("--overwrite", "--labels", output / "labels.txt", lines="f.mp4 up\n", name="val")


def test_overwrite_replaces_class_names_that_no_other_records_use(build):
    build()
    output = build("--overwrite", lines="a.mp4 other\n")
    assert (output / "labels.txt").read_text() == "other\n"


def test_an_output_folder_inside_a_file_is_rejected(build, videos, tmp_path):
    with pytest.raises(UserError, match=r"a\.mp4/out: cannot create this folder"):
        build("--output", videos / "a.mp4" / "out")


def test_failed_csv_has_the_failures_of_all_names(build):
    build(lines="a.mp4 up\nabsent.mp4 down\n")
    labels = build(lines="a.mp4 up\nabsent.mp4 down\n") / "labels.txt"
    output = build("--labels", labels, lines="b.mp4 up\nmissing.mp4 up\n", name="val")
    assert {(row["name"], row["path"]) for row in failures(output)} == {("train", "absent.mp4"), ("val", "missing.mp4")}


def test_a_job_without_readable_videos_fails(build, videos):
    (videos / "text.mp4").write_text("not a video")
    with pytest.raises(UserError, match="0 of 1 videos can be read"):
        build(lines="text.mp4 up\n")
    with pytest.raises(UserError, match=r"0 of 2 videos exist, first missing .*[xy]\.mp4; check --videos"):
        build(lines="x.mp4 up\ny.mp4 up\n", name="other")


def test_finished_shards_are_kept(build, capsys):
    output = build("--shards=3")
    before = {path: os.stat(path).st_mtime_ns for path in records.find_shards(str(output / "train"))}
    first, second, _ = sorted(before)
    os.truncate(first, os.stat(first).st_size - 1)
    os.remove(second)
    expected = hashes(build("--shards=3"))
    assert "keeping finished shards: 1 of 3" in capsys.readouterr().out
    assert [path for path, mtime in before.items() if os.stat(path).st_mtime_ns == mtime] == [sorted(before)[2]]
    assert hashes(build("--shards=3", "--overwrite")) == expected


@pytest.mark.parametrize("damaged", [b"", b'{"number": 1, "rec', b"\0" * 80, b"[]", b"{}", b"\xff"])
def test_a_shard_with_a_damaged_report_is_built_again(build, capsys, damaged):
    output = build("--shards=3")
    before = hashes(output)
    (output / ".train.build" / "00001.json").write_bytes(damaged)
    assert hashes(build("--shards=3")) == before
    assert "keeping finished shards: 2 of 3" in capsys.readouterr().out


def test_a_shard_is_on_the_disk_before_its_report(build, monkeypatch):
    events = []
    fsync, rename, replace = os.fsync, tf.io.gfile.rename, os.replace

    def record(name, function):
        return lambda *arguments, **options: (events.append(name), function(*arguments, **options))

    monkeypatch.setattr(os, "fsync", record("flush", fsync))
    monkeypatch.setattr(tf.io.gfile, "rename", record("shard", rename))
    monkeypatch.setattr(os, "replace", record("text", replace))
    build("--shards=1")
    shard = events.index("shard")
    assert events[shard - 1 : shard + 3] == ["flush", "shard", "flush", "text"]


def test_nothing_remains_of_a_shard_that_cannot_be_written(build, tmp_path, monkeypatch):
    def fail(segment, plan, video_folder):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_make_record_or_failure", fail)
        with pytest.raises(UserError, match=r"train: shard 0 cannot be written \(.*No space left"):
            build("--shards=1")
    assert sorted(os.listdir(tmp_path / "out" / ".train.build")) == ["lock", "plan.jsonl"]


def test_a_resumed_job_deletes_partial_files_before_it_writes(build, tmp_path, monkeypatch):
    partial = build("--shards=1") / ".train.build" / "00000.0.partial"
    partial.write_text("of a killed job")
    write, exists = files.write_bytes, []
    monkeypatch.setattr(files, "write_bytes", lambda *file: (exists.append(partial.exists()), write(*file)))
    build("--shards=1")
    assert exists and not any(exists)


@pytest.mark.parametrize("option", ["--overwrite", "--workers=1"])
def test_a_second_build_of_the_same_records_is_rejected_and_changes_nothing(build, option):
    output = build("--shards=1")
    partial = output / ".train.build" / "00000.0.partial"
    with jobs.lock(str(output / "train")):
        partial.write_text("of the running job")
        before = hashes(output)
        with pytest.raises(UserError, match=r"out/train: another process builds these records; wait for its end"):
            build("--shards=1", option)
        assert hashes(output) == before and partial.exists()
        build("--labels", output / "labels.txt", name="val")
    build("--shards=1", option)
    assert not partial.exists()


def test_overwrite_keeps_the_lock(build):
    output = build()
    with jobs.lock(str(output / "train")):
        jobs._delete_job(str(output / "train"))
        assert os.listdir(output / ".train.build") == ["lock"]
        with pytest.raises(UserError, match="another process builds these records"):
            build("--overwrite")


def test_a_file_system_without_locks_is_a_warning(build, monkeypatch, capsys):
    def fail(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", fail)
    build()
    assert "lock: cannot be locked (Operation not supported); do not start a second" in capsys.readouterr().err


def test_a_job_with_other_settings_or_lists_requires_overwrite(build):
    build("--shards=2")
    for options, lines, message in (
        (["--shards=3"], None, r"belongs to a different job \(--shards 2, now 3\)\. .*--overwrite"),
        (["--shards=2", "--fps=5"], None, r"\(--fps 0\.0, now 5\.0\)"),
        (["--shards=2"], "a.mp4 up\nb.mp4 down\n", r"\(another list \(4 videos, now 2\)\)"),
    ):
        with pytest.raises(UserError, match=message):
            build(*options, **({"lines": lines} if lines else {}))
    assert sorted(hashes(build("--shards=3", "--overwrite"))) == [f"train-0000{n}-of-00003" for n in range(3)]


def test_shards_of_unknown_origin_are_not_overwritten(build, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train-00000-of-00001").write_bytes(b"precious")
    with pytest.raises(UserError, match="shards of unknown origin exist"):
        build()
    assert (tmp_path / "out" / "train-00000-of-00001").read_bytes() == b"precious"


def test_a_second_split_requires_the_class_names_of_the_first(build):
    output = build()
    with pytest.raises(
        UserError, match=r"differ from the 1 class name of this job and are used by train. Add --labels"
    ):
        build(lines="e.mp4 up\n", name="val")
    build("--labels", output / "labels.txt", lines="e.mp4 up\nf.mp4 0\n", name="val")
    by_filename = examples(output, "val")
    assert integers(by_filename["e.mp4"], records.LABEL) == [1]
    assert integers(by_filename["f.mp4"], records.LABEL) == [0]
    with pytest.raises(UserError, match="label 'upp' is not among the 2 class names; the nearest is 'up'"):
        build("--labels", output / "labels.txt", lines="e.mp4 upp\n", name="val")


def test_invalid_arguments_are_rejected(capsys):
    for options, message in (
        (["--output=x"], "--videos"),
        (["--output=x", "--videos=y", "--fps=fast"], "'fast'"),
        (["--output=x", "--videos=y", "--quality=0"], "from 1 to 100"),
        (["--output=x", "--videos=y", "--shards=0"], "from 1"),
        (["--output=x", "--videos=y", "--sahrds=2"], "--sahrds"),
        (["--output=x", "--videos=y", "--name=a/b"], "--name"),
    ):
        with pytest.raises(SystemExit) as end:
            command.main(options)
        assert end.value.code == 2
        assert message in capsys.readouterr().err


def test_a_user_error_is_one_line_with_status_1(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        exit_with_message(lambda: command.main(["--videos", str(tmp_path), "--output", str(tmp_path / "out")]))
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: no subfolder contains videos")


@pytest.mark.parametrize("name", ["train.index.npz", "train-00000-of-00001"])
def test_a_file_that_cannot_be_deleted_is_an_error_with_one_line(build, name):
    output = build("--shards=1")
    (output / name).unlink()
    (output / name).mkdir()
    with pytest.raises(UserError, match=rf"out/{name}: cannot be deleted \(.*\)$"):
        build("--shards=1", "--overwrite")


@pytest.mark.slow
def test_a_killed_job_is_resumed(videos, tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"{name}.mp4 up\n" for name in "abcdef"))
    arguments = [sys.executable, "-m", "dist_jax.build_records", "--videos", str(videos), "--shards=6", "--workers=1"]
    arguments += ["--list", str(tmp_path / "list.txt"), "--output"]
    with subprocess.Popen(
        [*arguments, str(tmp_path / "out")], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as job:
        while job.poll() is None and not list((tmp_path / "out").glob("train-*")):
            time.sleep(0.001)
        job.send_signal(signal.SIGKILL)
    subprocess.run([*arguments, str(tmp_path / "out")], check=True, capture_output=True)
    command.main([*arguments[3:], str(tmp_path / "uninterrupted")])
    assert hashes(tmp_path / "out") == hashes(tmp_path / "uninterrupted")
    assert len(record_index.load_index(str(tmp_path / "out" / "train@6"))) == 6
    assert not list((tmp_path / "out" / ".train.build").glob("*.partial"))
