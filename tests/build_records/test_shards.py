"""Contents of a record: times of a segment, pixels of a video."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
import tensorflow as tf
from helpers.built_records import examples, images, integers
from helpers.numbered_videos import frame_numbers, write_numbered, write_with_sound

from dist_jax.build_records import build_plan, command
from dist_jax.build_records.shards import make_record
from dist_jax.data import records
from dist_jax.errors import UserError
from dist_jax.video.video_list import VideoSegment


def record_of(path, start_s=None, end_s=None, fps=0.0):
    """The record of a segment."""
    segment = VideoSegment(Path(path).name, "run", start_s, end_s)
    plan = build_plan.BuildPlan((segment,), ("run",), 1, fps, 256, 90)
    serialized, _ = make_record(segment, plan, str(Path(path).parent))
    return tf.train.SequenceExample.FromString(serialized)


def times_us(example):
    return integers(example, records.START) + integers(example, records.END)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.mpg"])
def test_a_record_of_one_frame_ends_after_the_duration_of_the_frame(name, tmp_path):
    codec = {"a.avi": "mpeg4", "a.mpg": "mpeg1video"}.get(name, "libx264")
    path = write_numbered(tmp_path / name, codec, num_frames=1, rate=25)
    assert times_us(record_of(path)) == [0, 40_000]
    assert times_us(record_of(path, fps=10)) == [0, 100_000]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_record_of_a_whole_video_ends_with_its_last_frame(name, tmp_path):
    start, end = times_us(record_of(write_numbered(tmp_path / name, num_frames=50)))
    assert start == 0 and end == pytest.approx(2_000_000, abs=1000)


def test_a_segment_counts_from_the_start_of_the_file(tmp_path):
    example = record_of(write_with_sound(tmp_path / "a.mp4", "libx264", delay=0.5), 1.0, 1.2)
    assert frame_numbers(images(example)) == [13, 14, 15, 16, 17]
    assert times_us(example) == [1_000_000, 1_200_000]


def build(folder, *options):
    (folder / "list.txt").write_text("a.mp4 run\n")
    return command.main([f"--list={folder / 'list.txt'}", f"--output={folder / 'out'}", "--workers=1", *options])


def test_non_square_pixels_become_square_unless_an_option_keeps_them(tmp_path):
    write_numbered(tmp_path / "a.mp4", num_frames=2, pixel_aspect=Fraction(4, 3))
    build(tmp_path)
    build(tmp_path, "--name=stored", "--no-square-pixels")
    assert images(examples(tmp_path / "out")["a.mp4"])[0].shape == (64, 171, 3)
    assert images(examples(tmp_path / "out", "stored")["a.mp4"])[0].shape == (64, 128, 3)
    with pytest.raises(UserError, match=r"--square-pixels True, now False"):
        build(tmp_path, "--no-square-pixels")


def test_a_job_of_an_earlier_version_kept_the_stored_pixels(tmp_path):
    write_numbered(tmp_path / "a.mp4", num_frames=2)
    build(tmp_path, "--no-square-pixels")
    plan_file = Path(build_plan.plan_path(str(tmp_path / "out" / "train")))
    settings, *segments = plan_file.read_text().splitlines()
    old_settings = {name: value for name, value in json.loads(settings).items() if name != "square_pixels"}
    plan_file.write_text("\n".join([json.dumps(old_settings), *segments]) + "\n")
    with pytest.raises(UserError, match=r"--square-pixels False, now True"):
        build(tmp_path)
    assert build(tmp_path, "--no-square-pixels") == 0
