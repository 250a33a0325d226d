import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf
from helpers.built_records import examples, hashes, images, integers
from helpers.video_files import numbers, write_video

from dist_jax.build_records import __main__ as build_records
from dist_jax.build_records import jobs, shards
from dist_jax.data import record_index, records
from dist_jax.errors import UserError, exit_with_message
from dist_jax.video.video_list import VideoSegment


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Six videos of 20 frames a second: a.mp4 has 10 frames, b.mp4 11, ..."""
    folder = tmp_path_factory.mktemp("videos")
    for count, name in enumerate("abcdef", 10):
        write_video(folder / f"{name}.mp4", frames=count)
    return folder


@pytest.fixture
def build(videos, tmp_path):
    """Runs the command in this process on lines of a list; the output folder."""

    def run(*options, lines="a.mp4 up\nb.mp4 down\nc.mp4 up\nd.mp4 down\n", name="train"):
        (tmp_path / "list.txt").write_text(lines)
        command = ["--videos", videos, "--list", tmp_path / "list.txt", "--output", tmp_path / "out", "--name", name]
        assert build_records.main([str(word) for word in [*command, "--workers=1", *options]]) == 0
        return tmp_path / "out"

    return run


def failed(output):
    with open(output / "failed.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_records_hold_every_frame_with_label_and_origin(build):
    output = build()
    found = examples(output)
    assert sorted(found) == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    assert (output / "labels.txt").read_text() == "down\nup\n"
    example = found["c.mp4"]
    assert integers(example, records.LABEL) == [1]
    assert example.context.feature[records.LABEL_TEXT].bytes_list.value[0] == b"up"
    assert integers(example, records.START) == [0] and integers(example, records.END) == [600_000]
    assert numbers(images(example)) == list(range(12))
    assert images(example)[0].shape == (48, 64, 3)
    assert not (output / "failed.csv").exists()


def test_the_index_leads_to_every_record(build):
    output = build("--shards=3")
    index = record_index.load_index(str(output / "train@3"))
    assert len(index) == 4 and len(index.paths) == 3
    index.verify()


def test_frame_rate_size_and_quality(build):
    coarse = examples(build("--fps=10", "--short-side=24", "--quality=30"))["c.mp4"]
    assert numbers(images(coarse)) == [0, 2, 4, 6, 8, 10]
    assert images(coarse)[0].shape == (24, 32, 3)
    assert integers(coarse, records.END) == [600_000]


def test_parts_and_captions_of_a_csv(build):
    lines = "path,label,start,end,caption\nf.mp4,up,0.2,0.5,it grows\nf.mp4,down,0.5,,\n"
    (prefix,) = records.find_shards(str(build("--shards=1", lines=lines) / "train"))
    found = [tf.train.SequenceExample.FromString(r.numpy()) for r in tf.data.TFRecordDataset(prefix)]
    found.sort(key=lambda example: integers(example, records.START))
    assert [numbers(images(example)) for example in found] == [list(range(4, 10)), list(range(10, 15))]
    assert [integers(e, records.START) + integers(e, records.END) for e in found] == [
        [200_000, 500_000],
        [500_000, 750_000],
    ]
    assert found[0].context.feature[records.CAPTION].bytes_list.value[0] == b"it grows"
    assert records.CAPTION not in found[1].context.feature


def test_a_folder_per_class(videos, tmp_path):
    for label, name in (("moves up", "a"), ("moves down", "b")):
        (tmp_path / "in" / label).mkdir(parents=True)
        os.link(videos / f"{name}.mp4", tmp_path / "in" / label / f"{name}.mp4")
    build_records.main(["--videos", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--workers=1"])
    found = examples(tmp_path / "out")
    assert {name: integers(example, records.LABEL) for name, example in found.items()} == {
        "moves up/a.mp4": [1],
        "moves down/b.mp4": [0],
    }


def test_everything_on_another_file_system(videos, tmp_path):
    """`ram://` is TensorFlow's in-memory file system; `gs://` goes the same way."""
    for label, name in (("up", "a"), ("down", "b")):
        tf.io.gfile.makedirs(f"ram://in/{label}")
        tf.io.gfile.copy(str(videos / f"{name}.mp4"), f"ram://in/{label}/{name}.mp4", overwrite=True)
    command = ["--videos=ram://in", "--output=ram://out", "--workers=1", "--shards=2"]
    assert build_records.main(command) == 0
    assert build_records.main(command) == 0
    index = record_index.load_index("ram://out/train@2")
    found = b"".join(record.numpy() for record in tf.data.TFRecordDataset(index.paths))
    assert len(index) == 2 and b"up/a.mp4" in found and b"down/b.mp4" in found


def test_workers_change_no_byte(build):
    alone = hashes(build("--shards=3"))
    assert hashes(build("--shards=3", "--workers=2", "--overwrite")) == alone


def test_the_order_of_the_list_changes_no_byte(build):
    lines = "a.mp4 up\nb.mp4 down\nc.mp4 up\n"
    one = hashes(build("--shards=2", lines=lines))
    assert hashes(build("--shards=2", "--overwrite", lines="".join(reversed(lines.splitlines(True))))) == one


def test_clips_are_spread_evenly():
    clips = [VideoSegment(f"{number}.mp4", "x") for number in range(100)]
    plan = shards.Plan(shards.spread(clips), ("x",), 8, 0.0, 256, 90)
    parts = [plan.of_shard(number) for number in range(8)]
    assert sorted(clip.path for part in parts for clip in part) == sorted(clip.path for clip in clips)
    assert {len(part) for part in parts} == {12, 13}
    assert plan.clips != tuple(clips) and set(plan.clips) == set(clips)


BROKEN = "a.mp4 up\nb.mp4 down\nabsent.mp4 up\ntext.mp4 down\n"


def test_unreadable_videos_are_listed_and_the_others_built(build, videos, capsys):
    (videos / "text.mp4").write_text("no video")
    output = build("--shards=2", lines=BROKEN)
    assert sorted(examples(output)) == ["a.mp4", "b.mp4"]
    rows = {row["path"]: row for row in failed(output)}
    assert sorted(rows) == ["absent.mp4", "text.mp4"]
    assert "no such file" in rows["absent.mp4"]["reason"] and "cannot be read" in rows["text.mp4"]["reason"]
    assert rows["text.mp4"]["name"] == "train" and rows["text.mp4"]["label"] == "down"
    captured = capsys.readouterr()
    assert "2 clips, 21 frames" in captured.out and "2 of 4 videos could not be read" in captured.err


def test_more_failures_than_are_borne_end_the_job_and_keep_what_is_done(build, videos):
    (videos / "text.mp4").write_text("no video")
    build("--max-failures=2", lines=BROKEN)
    with pytest.raises(
        UserError, match=r"2 of 4 videos could not be read, more than --max-failures 1: see .*failed.csv"
    ):
        build("--max-failures=1", lines=BROKEN)


def test_the_list_of_failures_is_not_written_after_every_shard(build, monkeypatch):
    written = []
    write = jobs.write_failures
    monkeypatch.setattr(jobs, "write_failures", lambda *arguments: (written.append(1), write(*arguments)))
    output = build("--shards=4", lines="a.mp4 up\nb.mp4 up\nabsent.mp4 up\ngone.mp4 up\n")
    assert len(failed(output)) == 2 and len(written) == 1


def test_failed_videos_can_be_retried(build, videos):
    (videos / "later.mp4").unlink(missing_ok=True)
    lines = "a.mp4 up\nb.mp4 down\nlater.mp4 up\n"
    output = build("--shards=3", lines=lines)
    before = {path: os.stat(path).st_mtime_ns for path in records.find_shards(str(output / "train"))}
    write_video(videos / "later.mp4", frames=5)
    build("--shards=3", lines=lines)
    assert sorted(examples(output)) == ["a.mp4", "b.mp4"]
    build("--shards=3", "--retry-failed", lines=lines)
    assert sorted(examples(output)) == ["a.mp4", "b.mp4", "later.mp4"]
    assert failed(output) == []
    assert len(record_index.load_index(str(output / "train@3"))) == 3
    assert sum(os.stat(path).st_mtime_ns != then for path, then in before.items()) == 1


def test_a_video_of_a_data_set_that_comes_later_is_built_by_a_retry(tmp_path):
    """Its path in the folders of classes is known only then; the plan is the same nevertheless."""
    (tmp_path / "train.csv").write_text(
        "label,youtube_id,time_start,time_end\nyoga,aaa,0,1\nzumba,bbb,0,1\nyoga,ccc,1,2\n"
    )
    for label in ("yoga", "zumba"):
        (tmp_path / "videos" / label).mkdir(parents=True)
    write_video(tmp_path / "videos" / "yoga" / "aaa_000000_000001.mp4", frames=3)
    command = ["--dataset=kinetics400", "--annotations", tmp_path, "--videos", tmp_path / "videos", "--workers=1"]
    command = [str(word) for word in [*command, "--shards=3", "--output", tmp_path / "out"]]
    build_records.main(command)
    assert sorted(examples(tmp_path / "out")) == ["yoga/aaa_000000_000001.mp4"]
    write_video(tmp_path / "videos" / "zumba" / "bbb_000000_000001.mp4", frames=4)
    write_video(tmp_path / "videos" / "yoga" / "ccc.mp4", frames=41)  # the whole video, to be cut
    build_records.main(command)  # finished shards are kept
    assert len(examples(tmp_path / "out")) == 1
    build_records.main([*command, "--retry-failed"])
    found = examples(tmp_path / "out")
    assert sorted(found) == ["yoga/aaa_000000_000001.mp4", "yoga/ccc.mp4", "zumba/bbb_000000_000001.mp4"]
    assert numbers(images(found["yoga/ccc.mp4"])) == list(range(20, 40))
    assert failed(tmp_path / "out") == []
    build_records.main([*command[:-1], str(tmp_path / "whole")])
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")


def test_the_name_is_that_of_the_split(tmp_path):
    (tmp_path / "val.csv").write_text("label,youtube_id,time_start,time_end\nyoga,aaa,0,1\n")
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "aaa_000000_000001.mp4", frames=3)
    command = ["--dataset=kinetics400", "--annotations", tmp_path, "--videos", tmp_path / "videos", "--split=val"]
    build_records.main([str(word) for word in [*command, "--workers=1", "--output", tmp_path / "out"]])
    assert sorted(hashes(tmp_path / "out", "val")) == ["val-00000-of-00001"]


def test_overwriting_one_set_leaves_the_names_by_which_others_count(build):
    output = build()
    build("--labels", output / "labels.txt", lines="e.mp4 up\n", name="val")
    before = hashes(output, "val")
    with pytest.raises(UserError, match=r"other class names than these 1, by which train there count; add --labels"):
        build("--overwrite", lines="e.mp4 up\n", name="val")
    assert hashes(output, "val") == before
    assert (output / "labels.txt").read_text() == "down\nup\n"
    build("--overwrite", "--labels", output / "labels.txt", lines="f.mp4 up\n", name="val")


def test_a_set_that_stands_alone_may_change_its_names(build):
    build()
    output = build("--overwrite", lines="a.mp4 other\n")
    assert (output / "labels.txt").read_text() == "other\n"


def test_an_output_below_a_file_is_refused(build, videos, tmp_path):
    with pytest.raises(UserError, match=r"a\.mp4/out: this folder cannot be made"):
        build("--output", videos / "a.mp4" / "out")


def test_failures_of_two_sets_stand_in_one_file(build):
    build(lines="a.mp4 up\nabsent.mp4 down\n")
    output = build(
        "--labels",
        build(lines="a.mp4 up\nabsent.mp4 down\n") / "labels.txt",
        lines="b.mp4 up\ngone.mp4 up\n",
        name="val",
    )
    assert {(row["name"], row["path"]) for row in failed(output)} == {("train", "absent.mp4"), ("val", "gone.mp4")}


def test_when_every_video_fails(build, videos):
    (videos / "text.mp4").write_text("no video")
    with pytest.raises(UserError, match="none of the 1 videos could be read"):
        build(lines="text.mp4 up\n")
    with pytest.raises(UserError, match=r"none of the 2 videos is there, the first being .*; check --videos"):
        build(lines="x.mp4 up\ny.mp4 up\n", name="other")


def test_finished_shards_are_kept(build, capsys):
    output = build("--shards=3")
    before = {path: os.stat(path).st_mtime_ns for path in records.find_shards(str(output / "train"))}
    first, second, _ = sorted(before)
    os.truncate(first, os.stat(first).st_size - 1)
    os.remove(second)
    expected = hashes(build("--shards=3"))
    assert "1 of 3 shards are finished and kept" in capsys.readouterr().out
    assert [path for path, then in before.items() if os.stat(path).st_mtime_ns == then] == [sorted(before)[2]]
    assert hashes(build("--shards=3", "--overwrite")) == expected


def test_other_settings_or_lists_need_a_word(build):
    build("--shards=2")
    for options, lines, message in (
        (["--shards=3"], None, r"begun with --shards 2, not 3; .*--overwrite"),
        (["--shards=2", "--fps=5"], None, r"begun with --fps 0\.0, not 5\.0"),
        (["--shards=2"], "a.mp4 up\nb.mp4 down\n", r"another list \(4 clips, now 2\)"),
    ):
        with pytest.raises(UserError, match=message):
            build(*options, **({"lines": lines} if lines else {}))
    assert sorted(hashes(build("--shards=3", "--overwrite"))) == [f"train-0000{n}-of-00003" for n in range(3)]


def test_shards_of_another_origin_are_not_touched(build, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train-00000-of-00001").write_bytes(b"precious")
    with pytest.raises(UserError, match="shards of another origin"):
        build()
    assert (tmp_path / "out" / "train-00000-of-00001").read_bytes() == b"precious"


def test_a_second_split_counts_by_the_first_ones_names(build):
    output = build()
    with pytest.raises(
        UserError, match=r"holds other class names than these 1, by which train there count; add --labels"
    ):
        build(lines="e.mp4 up\n", name="val")
    build("--labels", output / "labels.txt", lines="e.mp4 up\nf.mp4 0\n", name="val")
    found = examples(output, "val")
    assert integers(found["e.mp4"], records.LABEL) == [1] and integers(found["f.mp4"], records.LABEL) == [0]
    with pytest.raises(UserError, match="label 'upp' is not among the 2 class names; the nearest is 'up'"):
        build("--labels", output / "labels.txt", lines="e.mp4 upp\n", name="val")


def test_bad_command_lines(capsys):
    for options, message in (
        (["--output=x"], "--videos"),
        (["--output=x", "--videos=y", "--fps=fast"], "'fast'"),
        (["--output=x", "--videos=y", "--quality=0"], "from 1 to 100"),
        (["--output=x", "--videos=y", "--shards=0"], "from 1"),
        (["--output=x", "--videos=y", "--sahrds=2"], "--sahrds"),
        (["--output=x", "--videos=y", "--name=a/b"], "--name"),
    ):
        with pytest.raises(SystemExit) as end:
            build_records.main(options)
        assert end.value.code == 2
        assert message in capsys.readouterr().err


def test_a_user_error_is_one_line_and_status_1(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        exit_with_message(lambda: build_records.main(["--videos", str(tmp_path), "--output", str(tmp_path / "out")]))
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: holds no folder with videos")


def test_a_killed_job_goes_on_where_it_was(videos, tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"{name}.mp4 up\n" for name in "abcdef"))
    command = [sys.executable, "-m", "dist_jax.build_records", "--videos", str(videos), "--shards=6", "--workers=1"]
    command += ["--list", str(tmp_path / "list.txt"), "--output"]
    with subprocess.Popen(
        [*command, str(tmp_path / "out")], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as job:
        while job.poll() is None and not list((tmp_path / "out").glob("train-*")):
            time.sleep(0.001)
        job.send_signal(signal.SIGKILL)
    subprocess.run([*command, str(tmp_path / "out")], check=True, capture_output=True)
    build_records.main([*command[3:], str(tmp_path / "whole")])
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")
    assert len(record_index.load_index(str(tmp_path / "out" / "train@6"))) == 6
    assert not list((tmp_path / "out" / ".train.build").glob("*.partial"))
