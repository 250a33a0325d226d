"""Lists of videos and classes that select parts of an evaluation."""

from pathlib import Path

import ml_collections
import numpy as np
import pytest

from dist_jax.errors import UserError
from dist_jax.evaluation.splits import read_splits

CLASSES = ["Taichi", "brush hair", "cartwheel", "clap"]
IDS = ["UCF-101/Taichi/v_1.mp4", "Taichi/v_2.avi", "clap/a b.avi", "brush_hair/x.avi"]
LABELS = np.array([0, 0, 3, 1], np.int32)


def settings(video_lists: object = "", class_lists: object = "") -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({"video_lists": str(video_lists), "class_lists": str(class_lists)})


def write(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines) + "\n")
    return file


def test_without_lists_there_is_one_split_of_all_videos():
    (split,) = read_splits(settings(), CLASSES, IDS, LABELS)
    assert (split.rows.tolist(), split.classes, split.note) == ([0, 1, 2, 3], None, "")


def test_videos_of_ucf101_are_found_by_folder_and_name_without_suffix(tmp_path):
    first = write(tmp_path / "testlist01.txt", "Taichi/v_2.avi", "Taichi/v_1.avi")
    second = write(tmp_path / "testlist02.txt", "clap/a b.avi 4")  # training lists have a class number
    splits = read_splits(settings(f"{first},{second}"), CLASSES, IDS, LABELS)
    assert [(split.name, split.rows.tolist()) for split in splits] == [("testlist01", [1, 0]), ("testlist02", [2])]


def test_the_files_of_an_hmdb51_split_are_joined_and_only_its_test_videos_count(tmp_path):
    write(tmp_path / "brush_hair_test_split1.txt", "x.avi 2 ", "y.avi 1", "z.avi 0")
    write(tmp_path / "clap_test_split1.txt", "a b.avi 2")
    write(tmp_path / "clap_test_split2.txt", "a b.avi 1")
    (split,) = read_splits(settings(tmp_path / "*_test_split1.txt"), CLASSES, IDS, LABELS)
    assert (split.name, split.rows.tolist()) == ("test_split1", [3, 2])


def test_missing_videos_are_counted_and_listed(tmp_path):
    path = write(tmp_path / "testlist01.txt", "Taichi/v_1.avi", *(f"Taichi/w_{i}.avi" for i in range(7)))
    (split,) = read_splits(settings(path), CLASSES, IDS, LABELS)
    names = ", ".join(f"Taichi/w_{i}.avi" for i in range(5))
    assert split.note == f"testlist01: 7 of 8 videos missing: {names}, ..."


def test_a_class_list_selects_classes_and_drops_the_other_videos(tmp_path):
    path = write(tmp_path / "classes1.txt", "clap", "Taichi")
    (split,) = read_splits(settings(class_lists=path), CLASSES, IDS, LABELS)
    assert (split.rows.tolist(), split.classes.tolist()) == ([0, 1, 2], [3, 0])
    assert split.note == "classes1: 1 videos of other classes dropped"


@pytest.mark.parametrize(
    ("lists", "lines", "message"),
    [
        ("video_lists", None, r"list\.txt does not exist"),
        ("class_lists", None, r"list\.txt does not exist"),
        ("video_lists", ["other/v_1.avi"], r"lists 1 videos, and none of them is in data\.val"),
        ("video_lists", ["Taichi/v_2.avi", "Taichi/v_1.avi", "Taichi/v_2.avi"], r"twice: Taichi/v_2\.avi and"),
        ("video_lists", ["Taichi/v_2.avi", "./Taichi/v_2.avi"], r"twice: Taichi/v_2\.avi and \./Taichi/v_2\.avi"),
        ("video_lists", ["Taichi/v_2.avi", "Taichi/v_2.mp4"], r"twice: Taichi/v_2\.avi and Taichi/v_2\.mp4"),
        ("video_lists", ["Taichi/v_2.avi", "b/y.avi", "b/y.mp4"], r"twice: b/y\.avi and b/y\.mp4"),  # also if missing
        ("class_lists", ["clap", "jump", "Run"], r"2 names that are not classes of data\.val: 'jump', 'Run'"),
        ("class_lists", ["cartwheel"], r"no video of data\.val has a class of"),
    ],
)
def test_invalid_lists_are_rejected(tmp_path, lists, lines, message):
    path = tmp_path / "list.txt"
    if lines:
        write(path, *lines)
    with pytest.raises(UserError, match=message):
        read_splits(settings(**{lists: path}), CLASSES, IDS, LABELS)


def test_videos_that_a_list_cannot_tell_apart_are_rejected(tmp_path):
    path = write(tmp_path / "list.txt", "Taichi/v_1.avi")
    with pytest.raises(UserError, match=r"a/Taichi/v_1\.mp4 and b/Taichi/v_1\.avi"):
        read_splits(settings(path), CLASSES, ["a/Taichi/v_1.mp4", "b/Taichi/v_1.avi"], LABELS[:2])
