"""The rehearsal: its layouts are what build_records reads; its videos; bad arguments."""

import itertools
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers.launchers import ROOT

from dist_jax.build_records import datasets
from dist_jax.errors import UserError
from dist_jax.evaluation.epic_annotations import read_groups
from examples.demo import scenes
from examples.demo.render_videos import FPS, NUM_FRAMES
from examples.rehearsal import actions, clips, epic, expected, kinetics, render

# Two training videos of each class are also in the list of the next set.
SIZES = kinetics.Sizes(train=(5, 4, 4), val=(3, 2, 2), shared=2)


@pytest.fixture(scope="module")
def lists() -> kinetics.Lists:
    return kinetics.make_lists(SIZES)


@pytest.fixture(scope="module")
def output(tmp_path_factory, lists) -> Path:
    """All annotations, and empty video files."""
    folder = tmp_path_factory.mktemp("rehearsal")
    render.write_files(folder / "annotations/kinetics", kinetics.annotation_files(lists))
    render.write_files(folder / "annotations/ucf101", actions.ucf101_files(videos_per_split=2))
    render.write_files(folder / "annotations/hmdb51", actions.hmdb51_files(videos_per_split=2))
    render.write_files(folder / "annotations/epic100", epic.annotation_files(epic.make_segments(3, seed=0)))
    videos = {
        "kinetics": lists.clips,
        "ucf101": actions.ucf101_clips(videos_per_split=2),
        "hmdb51": actions.hmdb51_clips(videos_per_split=2),
        "epic100": epic.clips(epic.make_segments(3, seed=0)),
    }
    for name, of_set in videos.items():
        render.write_files(folder / "videos" / name, {clip.path: "" for clip in of_set})
    return folder


def read(output: Path, dataset: str, split: str, annotations: str, videos: str) -> datasets.Annotations:
    return datasets.read(dataset, str(output / "annotations" / annotations), str(output / "videos" / videos), split)


def missing(annotations: datasets.Annotations, folder: Path) -> list[str]:
    return [segment.path for segment in annotations.segments if not (folder / segment.path).exists()]


def test_the_union_of_the_training_lists_has_the_videos_and_classes_counted_by_hand(output):
    union = read(output, "kinetics710", "train", "kinetics", "kinetics")
    # Kinetics-700: 5 classes * 4, 4 common classes * 2 of -600 (5: "shrinking" too), 4 of the validation of -400.
    # Kinetics-600: 6 * 4 and 5 * 2 of -400; 2 are held out by test lists, and 5 * 2 are in -700.
    # Kinetics-400: 5 * 5; 4 are validation videos of -700, and 5 * 2 are in -600.
    assert union.summary.splitlines() == [
        "kinetics710 train: 63 videos of 6 classes (published lists: 710)",
        "  kinetics700: 34 listed, 4 held out, 0 duplicate, 30 kept",
        "  kinetics600: 34 listed, 2 held out, 10 duplicate, 22 kept",
        "  kinetics400: 25 listed, 4 held out, 10 duplicate, 11 kept",
    ]
    assert union.class_names == kinetics.MERGED
    assert len(missing(union, output / "videos/kinetics")) == 1


def test_the_stages_of_the_rehearsal_expect_the_lines_that_build_records_prints(output, lists):
    lines = expected.texts(lists, 2, epic.make_segments(3, seed=0))
    for split in ("train", "val"):
        summary = read(output, "kinetics710", split, "kinetics", "kinetics").summary
        wanted = [line for line in lines[f"records_k710_{split}.txt"].splitlines() if "kinetics" in line]
        assert len(wanted) == {"train": 4, "val": 1}[split]
        assert all(line in summary for line in wanted)
    assert ": 24 videos, \nunreadable videos: 1 of 25; " in lines["records_k400_train.txt"]
    # Validation videos of Kinetics-600: 3 of each class, 2 of "shrinking"; a list has two of the six classes.
    assert ": 17 videos, " in lines["records_k600.txt"]
    dropped = [line for line in lines["zero_shot_k600.txt"].splitlines() if "dropped" in line]
    counts = {"classes1": 17 - 6, "classes2": 17 - 6, "classes3": 17 - 5}
    assert dropped == [f"{name}: {count} videos of other classes dropped" for name, count in counts.items()]


def test_no_training_video_of_the_union_is_in_a_validation_or_test_list(output):
    train = read(output, "kinetics710", "train", "kinetics", "kinetics")
    lists = [path.read_text() for path in (output / "annotations/kinetics").rglob("*.csv") if path.stem != "train"]
    assert len(lists) == 7
    ids = {key[:11] for key in (segment.key for segment in train.segments)}
    assert len(ids) == 63
    assert not any(youtube_id in text for youtube_id in ids for text in lists)


def test_the_same_class_has_several_names_in_the_published_sets():
    names = {name for classes in kinetics.CLASSES.values() for name in classes}
    assert {"balloon blowing", "inflating balloons", "moving up", "Moving Up"} <= names
    assert len(kinetics.MERGED) == 6 > max(len(kinetics.CLASSES[name]) for name in (kinetics.K400, kinetics.K700))


@pytest.mark.parametrize(("split", "count", "num_missing"), [("train", 25, 1), ("val", 15, 0)])
def test_kinetics400_has_all_videos_but_one(output, split, count, num_missing):
    annotations = read(output, "kinetics400", split, "kinetics/kinetics400", "kinetics")
    assert len(annotations.segments) == count
    assert annotations.class_names == ["balloon blowing", "moving down", "moving left", "moving right", "moving up"]
    assert len(missing(annotations, output / "videos/kinetics")) == num_missing


def test_every_validation_video_of_kinetics600_exists_and_the_class_lists_have_its_classes(output):
    annotations = read(output, "kinetics600", "val", "kinetics/kinetics600", "kinetics")
    assert (len(annotations.segments), missing(annotations, output / "videos/kinetics")) == (17, [])
    assert sorted(itertools.chain(*kinetics.CLASS_LISTS.values())) == annotations.class_names


def test_kinetics600_has_complete_videos_with_the_segment_from_second_1_to_3(output):
    annotations = read(output, "kinetics600", "train", "kinetics/kinetics600", "kinetics/kinetics600")
    full = [s for s in annotations.segments if (output / "videos/kinetics/kinetics600" / s.path).exists()]
    assert len(full) == 6 * 4
    assert {(segment.start_s, segment.end_s) for segment in full} == {(1.0, 3.0)}


@pytest.mark.parametrize("dataset", ["ucf101", "hmdb51"])
def test_action_sets_have_disjoint_test_splits_and_every_video_exists(output, dataset):
    splits = [read(output, dataset, f"test{number}", dataset, dataset) for number in (1, 2, 3)]
    num_classes = {"ucf101": 6, "hmdb51": 5}[dataset]
    paths = [{segment.path for segment in split.segments} for split in splits]
    assert [len(split) for split in paths] == [2 * num_classes] * 3
    assert len(set.union(*paths)) == 6 * num_classes
    assert all(missing(split, output / "videos" / dataset) == [] for split in splits)
    # In HMDB51, one video of each class has the code 0: neither training nor test.
    train = read(output, dataset, "train1", dataset, dataset)
    assert len(train.segments) == {"ucf101": 4, "hmdb51": 3}[dataset] * num_classes


def test_action_sets_have_classes_that_are_not_in_kinetics(output):
    ucf101 = {name.casefold() for name in read(output, "ucf101", "test1", "ucf101", "ucf101").class_names}
    assert ucf101 - {name.casefold() for name in kinetics.MERGED} == {
        "growing",  # Kinetics calls it inflating balloons
        "turning clockwise",
        "turning counter clockwise",
    }
    assert not {"turning clockwise", "turning counter-clockwise"} & {
        motion for classes in kinetics.CLASSES.values() for motion in classes.values()
    }


def test_epic_has_97_verbs_300_nouns_and_the_listed_segments(output):
    train, val, test = (read(output, "epic100", split, "epic100", "epic100") for split in ("train", "val", "test"))
    assert [len(text.splitlines()) for text in train.extra_files.values()] == [97, 300]
    assert [len(split.segments) for split in (train, val, test)] == [6, 6, 3]
    assert all(missing(split, output / "videos/epic100") == [] for split in (train, val, test))
    second = val.segments[1]
    assert (second.narration_id, second.start_s, second.end_s) == ("P01_02_1", 2.0, 4.0)
    assert {segment.verb for segment in test.segments} == {None}
    groups = read_groups(str(output / "annotations/epic100"))
    assert groups.unseen_participants == {"P02"}
    assert groups.tail_verbs < set(range(8)) and groups.tail_nouns < set(range(40))


def test_a_complete_video_begins_with_seconds_without_motion():
    frames = clips.render(clips.Clip("x.mp4", (clips.Part("moving left"),), still_s=1), seed=(0, 1))
    shape_x = [np.argwhere(frame.max(axis=-1) > 200)[:, 1].mean() for frame in frames]
    assert len(frames) == FPS + NUM_FRAMES
    assert np.ptp(shape_x[:FPS]) < 1 < shape_x[FPS] - shape_x[-1]


@pytest.mark.parametrize("colour", ["red", "white"])
def test_a_look_sets_the_colour_of_the_shape(colour):
    frames = clips.render(clips.Clip("x.mp4", (clips.Part("growing", (colour, "circle")),)), seed=(0, 2))
    body = frames[-1][frames[-1].max(axis=-1) > 200]
    assert np.abs(np.median(body, axis=0) - scenes.COLOURS[colour]).max() <= 2


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    assert not render.is_finished(tmp_path, short=True)
    (tmp_path / "settings.json").write_text('{"short": true}')
    assert render.is_finished(tmp_path, short=True)
    with pytest.raises(UserError, match="was rendered with --short: use another --output"):
        render.is_finished(tmp_path, short=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--fast"], "error: unknown argument --fast; usage: "), (["--output"], "error: --output needs a folder")],
)
def test_invalid_arguments_of_the_script_fail_with_one_line(arguments, message):
    command = ["bash", str(ROOT / "scripts/rehearsal.sh"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1
