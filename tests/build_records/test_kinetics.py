"""Kinetics-400, -600 and -700: lists, class names, trimmed and full videos."""

import pytest
from helpers.built_records import examples, images
from helpers.video_files import numbers, write_video

from dist_jax.build_records import command, datasets, kinetics
from dist_jax.errors import UserError
from dist_jax.video.video_list import VideoSegment

HEADER = "label,youtube_id,time_start,time_end,split\n"


def test_kinetics_finds_trimmed_and_full_videos(write_files):
    rows = 'zumba,-abc_DEF123,84,94,train\n"playing, well",xyz,7,17,train\nyoga,missing,1,11,train\n'
    lists = write_files({"train.csv": HEADER + rows})
    videos = write_files({"zumba/-abc_DEF123_000084_000094.mp4": "", "xyz.mkv": ""}, "videos")
    result = datasets.read("kinetics400", lists, videos, "train")
    assert result.segments == [
        VideoSegment("zumba/-abc_DEF123_000084_000094.mp4", "zumba"),
        VideoSegment("xyz.mkv", "playing, well", 7, 17),
        VideoSegment("missing_000001_000011.mp4", "yoga"),
    ]
    assert result.class_names == ["playing, well", "yoga", "zumba"]
    trimmed = datasets.read("kinetics400", lists, videos, "train", trimmed=True)
    assert trimmed.segments[1] == VideoSegment("xyz.mkv", "playing, well")
    assert datasets.read("kinetics400", lists + "/train.csv", videos, "train").segments == result.segments


@pytest.mark.parametrize("name", ["val.csv", "validate.csv", "kinetics_600_val.csv", "kinetics700_2020_validate.csv"])
def test_kinetics_lists_are_found_by_their_published_names(write_files, name):
    lists = write_files({name: HEADER, "train.csv": HEADER, "kinetics_600_test.csv": HEADER})
    assert kinetics.list_path(lists, "val") == f"{lists}/{name}"


def test_a_list_file_contains_the_split_of_its_rows(write_files):
    videos = write_files({}, "videos")
    list_file = write_files({"k.csv": HEADER + "zumba,x,1,11,validate\n"}) + "/k.csv"
    assert len(datasets.read("kinetics400", list_file, videos, "val").segments) == 1
    with pytest.raises(UserError, match="--split is 'train'"):
        datasets.read("kinetics400", list_file, videos, "train")


def test_invalid_kinetics_lists_are_rejected(write_files):
    videos = write_files({}, "videos")
    lists = write_files(
        {"a_train.csv": HEADER, "b_train.csv": HEADER, "val.csv": HEADER, "test.csv": "youtube_id\nx\n"}
    )
    for split, message in (
        ("train", "has a_train.csv, b_train.csv"),
        ("val", "contains no videos"),
        ("test", "no column 'label'"),
        ("all", "expected train or val or test"),
    ):
        with pytest.raises(UserError, match=message):
            datasets.read("kinetics400", lists, videos, split)
    with pytest.raises(UserError, match="absent: does not exist"):
        datasets.read("kinetics400", "absent", videos, "train")
    lists = write_files({"train.csv": HEADER + "zumba,x,20,10,train\n"}, "reversed_times")
    with pytest.raises(UserError, match=r"train\.csv, line 2: expected .* a start before the end"):
        datasets.read("kinetics600", lists, videos, "train")


def test_the_names_of_a_class_in_different_sets_are_normalized_to_one_name():
    for name, other_name in (
        ("passing American football (not in game)", "passing american football (not in game)"),
        ("massaging person's head", "massaging person\\'s head"),
        ("playing_ping_pong", '"playing ping  pong"'),
        ("dying hair", "dyeing hair"),
        ("drinking", "sipping cup"),
        ("throwing ball", "throwing ball (not baseball or American football)"),
    ):
        assert kinetics.normalize_name(name) == kinetics.normalize_name(other_name)
    assert kinetics.normalize_name("hugging baby") != kinetics.normalize_name("hugging")


def test_the_new_name_of_a_renamed_class_is_final():
    assert not set(kinetics.RENAMED) & {name.casefold() for name in kinetics.RENAMED.values()}
    assert all(name == name.casefold() for name in kinetics.RENAMED)


def test_a_record_contains_only_the_labelled_segment_of_a_full_video(write_files, tmp_path):
    lists = write_files({"train.csv": HEADER + "yoga,full,1,2,train\nzumba,trimmed,1,2,train\n"})
    videos = write_files({}, "videos")
    write_video(tmp_path / "videos" / "full.mp4", frames=40)
    write_video(tmp_path / "videos" / "trimmed_000001_000002.mp4", frames=20)
    output = tmp_path / "out"
    options = ["--dataset=kinetics600", "--workers=1", "--fps=10"]
    command.main([*options, f"--annotations={lists}", f"--videos={videos}", f"--output={output}"])
    by_filename = examples(output)
    assert numbers(images(by_filename["full.mp4"])) == list(range(20, 40, 2))
    assert numbers(images(by_filename["trimmed_000001_000002.mp4"])) == list(range(0, 20, 2))
    assert (output / "labels.txt").read_text() == "yoga\nzumba\n"
