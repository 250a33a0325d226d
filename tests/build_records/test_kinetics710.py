"""Kinetics-710: merged classes, held-out videos, class maps."""

import csv
import io
import json
import os

import pytest

from dist_jax.build_records import datasets, kinetics
from dist_jax.build_records.kinetics import Video
from dist_jax.errors import UserError

HEADER = "label,youtube_id,time_start,time_end,split\n"


def test_merge_uses_the_newest_label_of_a_video_and_excludes_held_out_videos():
    def video(youtube_id, label):
        return Video(youtube_id, label, 0, 10)

    merged = kinetics.merge(
        {
            "kinetics400": [
                video("a", "dying hair"),
                video("b", "vault"),
                video("c", "vault"),
                video("held_out", "vault"),
            ],
            "kinetics600": [video("a", "dyeing hair"), video("d", "passing american football (in game)")],
            "kinetics700": [video("b", "dyeing hair"), video("e", "passing American football (in game)")],
        },
        {"held_out"},
    )
    assert [(v.youtube_id, v.label) for v in merged.videos] == [
        ("b", "dyeing hair"),  # label of the newest set
        ("e", "passing American football (in game)"),
        ("a", "dyeing hair"),
        ("d", "passing American football (in game)"),
        ("c", "vault"),
    ]
    assert merged.class_maps == {
        "kinetics400": {"dying hair": "dyeing hair", "vault": "vault"},
        "kinetics600": {
            "dyeing hair": "dyeing hair",
            "passing american football (in game)": "passing American football (in game)",
        },
        "kinetics700": {
            "dyeing hair": "dyeing hair",
            "passing American football (in game)": "passing American football (in game)",
        },
    }
    assert merged.counts == {
        "kinetics400": {"listed": 4, "held_out": 1, "duplicate": 2, "kept": 1},
        "kinetics600": {"listed": 2, "held_out": 0, "duplicate": 0, "kept": 2},
        "kinetics700": {"listed": 2, "held_out": 0, "duplicate": 0, "kept": 2},
    }


def test_a_class_of_one_set_gets_its_new_name_without_the_other_sets():
    merged = kinetics.merge({"kinetics400": [Video("a", "tying tie", 0, 10)]}, [])
    assert [video.label for video in merged.videos] == ["tying necktie"]


@pytest.fixture
def three_sets(write_files):
    """Lists of the three Kinetics sets. The ids v4, v6, v7 and t4, t6, t7 are in validation and test lists."""
    lists = {
        "k400/train.csv": "balloon blowing,a,0,10,train\nvault,b,0,10,train\nvault,v7,0,10,train\n"
        "vault,t6,0,10,train\n",
        "k400/validate.csv": "vault,v4,0,10,validate\n",
        "k400/test.csv": "vault,t4,0,10,test\n",
        "k600/train.csv": "inflating balloons,a,0,10,train\nyoga,v4,0,10,train\n",
        "k600/validate.csv": "yoga,v6,0,10,validate\n",
        "kinetics700_2020/train.csv": "yoga,c,0,10,train\n",
        "kinetics700_2020/validate.csv": "yoga,v7,0,10,validate\n",
    }
    lists_without_label = {
        "k600/test.csv": "youtube_id,time_start,time_end,split\nt6,0,10,test\n",
        "kinetics700_2020/test.csv": "youtube_id,time_start,time_end,split\nt7,0,10,test\n",
    }
    return write_files({path: HEADER + rows for path, rows in lists.items()} | lists_without_label)


def test_kinetics710_has_merged_classes_counts_and_class_maps(write_files, three_sets):
    result = datasets.read("kinetics710", three_sets, write_files({}, "videos"), "train")
    assert [(segment.path[0], segment.label) for segment in result.segments] == [
        ("c", "yoga"),
        ("a", "inflating balloons"),
        ("b", "vault"),
    ]
    assert result.class_names == ["inflating balloons", "vault", "yoga"]
    counts = json.loads(result.extra_files["kinetics710_train_counts.json"])
    assert counts["classes"] == 3 and counts["videos"] == 3
    assert counts["sets"]["kinetics400"] == {"listed": 4, "held_out": 2, "duplicate": 1, "kept": 1}
    rows = list(csv.DictReader(io.StringIO(result.extra_files["map_kinetics400.csv"])))
    assert rows == [
        {"number": "0", "name": "balloon blowing", "merged_number": "0", "merged_name": "inflating balloons"},
        {"number": "1", "name": "vault", "merged_number": "1", "merged_name": "vault"},
    ]
    assert sorted(result.extra_files) == [
        "kinetics710_train_counts.json",
        *(f"map_{name}.csv" for name in kinetics.SETS),
    ]
    assert "3 videos of 3 classes" in result.summary


def test_kinetics600_txt_lists_and_holdout_list_are_used(write_files, three_sets):
    """The .txt lists are complete. The videos of the holdout list are excluded from Kinetics-710 training."""
    write_files(
        {
            "k600/train.txt": HEADER + "yoga,a,0,10,train\nyoga,h6,0,10,train\nyoga,n,0,10,train\nyoga,m,0,10,train\n",
            "k600/val.txt": HEADER + "yoga,v6,0,10,val\nyoga,m,0,10,val\n",
            "k600/kinetics600_holdout_test.csv": "youtube_id\nh6\n",
        }
    )
    videos = write_files({}, "videos")
    folder = f"{three_sets}/k600"
    os.rename(f"{folder}/validate.csv", f"{folder}/val.csv")
    assert len(datasets.read("kinetics600", folder, videos, "train").segments) == 4
    assert len(datasets.read("kinetics600", folder, videos, "val").segments) == 2
    assert [path.rpartition("/")[2] for path in kinetics.held_out_paths(folder)] == [
        "kinetics600_holdout_test.csv",
        "test.csv",
        "val.csv",
        "val.txt",
    ]
    kinetics710 = datasets.read("kinetics710", three_sets, videos, "train")
    counts = json.loads(kinetics710.extra_files["kinetics710_train_counts.json"])
    assert counts["sets"]["kinetics600"] == {"listed": 4, "held_out": 2, "duplicate": 0, "kept": 2}


def test_kinetics710_requires_all_held_out_lists(write_files, three_sets):
    os.remove(f"{three_sets}/k400/test.csv")
    with pytest.raises(UserError, match="k400: no test list"):
        datasets.read("kinetics710", three_sets, write_files({}, "videos"), "train")


def test_kinetics710_requires_three_sets(write_files):
    with pytest.raises(UserError, match="expected one folder with 400 in its name"):
        datasets.read("kinetics710", write_files({"k600/train.csv": HEADER}), write_files({}, "videos"), "train")


def test_class_maps_are_numbered_by_the_given_class_names(write_files, three_sets):
    names = ["yoga", "vault", "another", "inflating balloons"]
    result = datasets.read("kinetics710", three_sets, write_files({}, "videos"), "train", class_names=names)
    assert result.class_names == names
    rows = list(csv.DictReader(io.StringIO(result.extra_files["map_kinetics400.csv"])))
    assert [(row["merged_number"], row["merged_name"]) for row in rows] == [("3", "inflating balloons"), ("1", "vault")]
    with pytest.raises(UserError, match="'inflating balloons' is not among the 2 class names"):
        datasets.read("kinetics710", three_sets, write_files({}, "videos"), "train", class_names=names[:2])


def test_kinetics710_without_training_videos_is_rejected(write_files, three_sets):
    write_files({"k400/test.csv": "youtube_id\na\nb\nc\nv7\nt6\nv4\n"})
    with pytest.raises(UserError, match="split train of kinetics710 contains no videos"):
        datasets.read("kinetics710", three_sets, write_files({}, "videos"), "train")
