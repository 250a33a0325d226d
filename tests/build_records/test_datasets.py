import csv
import io
import json
import os

import pytest
from helpers.built_records import examples, images, integers
from helpers.video_files import numbers, write_video

from dist_jax.build_records import command, datasets, kinetics
from dist_jax.build_records.kinetics import Video
from dist_jax.build_records.video_files import VideoFiles
from dist_jax.data import records
from dist_jax.errors import UserError
from dist_jax.video.video_list import VideoSegment


@pytest.fixture
def tree(tmp_path):
    """Writes the files {path: text} to a folder and returns the folder."""

    def write(files, name="annotations"):
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
        (tmp_path / name).mkdir(exist_ok=True)
        return str(tmp_path / name)

    return write


KINETICS = "label,youtube_id,time_start,time_end,split\n"


def test_kinetics_finds_trimmed_and_full_videos(tree):
    lists = tree(
        {
            "train.csv": KINETICS
            + 'zumba,-abc_DEF123,84,94,train\n"playing, well",xyz,7,17,train\nyoga,gone,1,11,train\n'
        }
    )
    videos = tree({"zumba/-abc_DEF123_000084_000094.mp4": "", "xyz.mkv": ""}, "videos")
    result = datasets.read("kinetics400", lists, videos, "train")
    assert result.segments == [
        VideoSegment("zumba/-abc_DEF123_000084_000094.mp4", "zumba"),
        VideoSegment("xyz.mkv", "playing, well", 7, 17),
        VideoSegment("gone_000001_000011.mp4", "yoga"),
    ]
    assert result.class_names == ["playing, well", "yoga", "zumba"]
    assert datasets.read("kinetics400", lists, videos, "train", trimmed=True).segments[1] == VideoSegment(
        "xyz.mkv", "playing, well"
    )
    assert datasets.read("kinetics400", lists + "/train.csv", videos, "train").segments == result.segments


@pytest.mark.parametrize("name", ["val.csv", "validate.csv", "kinetics_600_val.csv", "kinetics700_2020_validate.csv"])
def test_kinetics_lists_are_found_by_their_published_names(tree, name):
    lists = tree({name: KINETICS, "train.csv": KINETICS, "kinetics_600_test.csv": KINETICS})
    assert kinetics.list_path(lists, "val") == f"{lists}/{name}"


def test_invalid_kinetics_lists_are_rejected(tree):
    videos = tree({}, "videos")
    one = tree({"k.csv": KINETICS + "zumba,x,1,11,validate\n"}, "one")
    assert len(datasets.read("kinetics400", f"{one}/k.csv", videos, "val").segments) == 1
    lists = tree({"a_train.csv": KINETICS, "b_train.csv": KINETICS, "val.csv": KINETICS, "test.csv": "youtube_id\nx\n"})
    for split, message in (
        ("train", "has a_train.csv, b_train.csv"),
        ("val", "contains no videos"),
        ("test", "no column 'label'"),
        ("all", "expected train or val or test"),
        ("train", "--split is 'train'"),
    ):
        place = f"{one}/k.csv" if "--split" in message else lists
        with pytest.raises(UserError, match=message):
            datasets.read("kinetics400", place, videos, split)
    bad = tree({"train.csv": KINETICS + "zumba,x,20,10,train\n"}, "bad")
    with pytest.raises(UserError, match=r"train\.csv, line 2: expected .* a start before the end"):
        datasets.read("kinetics600", bad, videos, "train")
    with pytest.raises(UserError, match="absent: does not exist"):
        datasets.read("kinetics400", "absent", videos, "train")


def test_names_of_one_class_in_different_sets_are_normalized_to_one_name():
    for one, other in (
        ("passing American football (not in game)", "passing american football (not in game)"),
        ("massaging person's head", "massaging person\\'s head"),
        ("playing_ping_pong", '"playing ping  pong"'),
        ("dying hair", "dyeing hair"),
        ("drinking", "sipping cup"),
        ("throwing ball", "throwing ball (not baseball or American football)"),
    ):
        assert kinetics.normalize_name(one) == kinetics.normalize_name(other)
    assert kinetics.normalize_name("hugging baby") != kinetics.normalize_name("hugging")


def test_no_renamed_class_is_renamed_again():
    assert not set(kinetics.RENAMED) & {name.casefold() for name in kinetics.RENAMED.values()}
    assert all(name == name.casefold() for name in kinetics.RENAMED)


def test_merge_keeps_the_newest_label_of_a_video_and_no_held_out_video():
    def video(name, label):
        return Video(name, label, 0, 10)

    merged = kinetics.merge(
        {
            "kinetics400": [video("a", "dying hair"), video("b", "vault"), video("c", "vault"), video("held", "vault")],
            "kinetics600": [video("a", "dyeing hair"), video("d", "passing american football (in game)")],
            "kinetics700": [video("b", "dyeing hair"), video("e", "passing American football (in game)")],
        },
        {"held"},
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


def test_a_renamed_class_has_its_new_name_without_the_newer_sets():
    merged = kinetics.merge({"kinetics400": [Video("a", "tying tie", 0, 10)]}, [])
    assert [video.label for video in merged.videos] == ["tying necktie"]


@pytest.fixture
def three_sets(tree):
    rows = {
        "k400/train.csv": "balloon blowing,a,0,10,train\nvault,b,0,10,train\nvault,v7,0,10,train\n"
        "vault,t6,0,10,train\n",
        "k400/validate.csv": "vault,v4,0,10,validate\n",
        "k400/test.csv": "vault,t4,0,10,test\n",
        "k600/train.csv": "inflating balloons,a,0,10,train\nyoga,v4,0,10,train\n",
        "k600/validate.csv": "yoga,v6,0,10,validate\n",
        "kinetics700_2020/train.csv": "yoga,c,0,10,train\n",
        "kinetics700_2020/validate.csv": "yoga,v7,0,10,validate\n",
    }
    tests = {"k600/test.csv": "youtube_id,time_start,time_end,split\nt6,0,10,test\n"}
    tests["kinetics700_2020/test.csv"] = "youtube_id,time_start,time_end,split\nt7,0,10,test\n"
    return tree({path: KINETICS + text for path, text in rows.items()} | tests)


def test_kinetics710_has_merged_classes_counts_and_class_maps(tree, three_sets):
    result = datasets.read("kinetics710", three_sets, tree({}, "videos"), "train")
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


def test_kinetics600_txt_lists_and_holdout_list_are_used(tree, three_sets):
    """The .txt lists are complete. The videos of the holdout list are excluded from Kinetics-710 training."""
    tree(
        {
            "k600/train.txt": KINETICS
            + "yoga,a,0,10,train\nyoga,h6,0,10,train\nyoga,n,0,10,train\nyoga,m,0,10,train\n",
            "k600/val.txt": KINETICS + "yoga,v6,0,10,val\nyoga,m,0,10,val\n",
            "k600/kinetics600_holdout_test.csv": "youtube_id\nh6\n",
        }
    )
    videos = tree({}, "videos")
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
    counts = json.loads(
        datasets.read("kinetics710", three_sets, videos, "train").extra_files["kinetics710_train_counts.json"]
    )
    assert counts["sets"]["kinetics600"] == {"listed": 4, "held_out": 2, "duplicate": 0, "kept": 2}


def test_kinetics710_requires_all_held_out_lists(tree, three_sets):
    os.remove(f"{three_sets}/k400/test.csv")
    with pytest.raises(UserError, match="k400: no test list"):
        datasets.read("kinetics710", three_sets, tree({}, "videos"), "train")


def test_class_maps_are_numbered_by_the_given_class_names(tree, three_sets):
    names = ["yoga", "vault", "another", "inflating balloons"]
    result = datasets.read("kinetics710", three_sets, tree({}, "videos"), "train", class_names=names)
    assert result.class_names == names
    rows = list(csv.DictReader(io.StringIO(result.extra_files["map_kinetics400.csv"])))
    assert [(row["merged_number"], row["merged_name"]) for row in rows] == [("3", "inflating balloons"), ("1", "vault")]
    with pytest.raises(UserError, match="'inflating balloons' is not among the 2 class names"):
        datasets.read("kinetics710", three_sets, tree({}, "videos"), "train", class_names=names[:2])


def test_kinetics710_without_training_videos_is_rejected(tree, three_sets):
    ids = "".join(f"{name}\n" for name in ("a", "b", "c", "v7", "t6", "v4"))
    tree({"k400/test.csv": "youtube_id\n" + ids})
    with pytest.raises(UserError, match="split train of kinetics710 contains no videos"):
        datasets.read("kinetics710", three_sets, tree({}, "videos"), "train")


def test_an_empty_split_and_a_file_instead_of_a_folder_are_rejected(tree):
    videos = tree({}, "videos")
    with pytest.raises(UserError, match="split train of ssv2 contains no videos"):
        datasets.read("ssv2", tree(SSV2 | {"something-something-v2-train.json": "[]"}), videos, "train")
    for name in ("kinetics710", "hmdb51", "ucf101", "epic100", "ssv2"):
        with pytest.raises(UserError, match=r"list\.txt: is a file; set --annotations to the folder"):
            datasets.read(name, tree({"list.txt": "x"}) + "/list.txt", videos, "train1")


def test_video_files_are_found_by_name_or_by_folder_and_name(tree):
    files = VideoFiles(tree({"a/x.mp4": "", "b/x.mp4": "", "b/y.mp4": "", "z.mp4": ""}, "videos"), (".mp4",))
    assert files.find("x") == "a/x.mp4"
    assert files.find("b/x") == "b/x.mp4"
    assert files.find("c/x") is None
    assert files.find("c/y") == "b/y.mp4"
    assert (files.find("z"), files.find("no")) == ("z.mp4", None)


def test_kinetics710_requires_three_sets(tree):
    with pytest.raises(UserError, match="expected one folder with 400 in its name"):
        datasets.read("kinetics710", tree({"k600/train.csv": KINETICS}), tree({}, "videos"), "train")


SSV2 = {
    "something-something-v2-labels.json": json.dumps(
        {"Holding something next to something": "1", "Closing something": "0"}
    ),
    "something-something-v2-train.json": json.dumps(
        [
            {
                "id": "78687",
                "label": "holding potato next to bottle",
                "template": "Holding [something] next to [something]",
                "placeholders": ["potato", "bottle"],
            },
            {"id": "42326", "label": "closing a door", "template": "Closing [something]", "placeholders": ["a door"]},
        ]
    ),
    "something-something-v2-validation.json": "[]",
}


def test_ssv2_labels_and_captions(tree):
    result = datasets.read("ssv2", tree(SSV2), tree({"42326.webm": ""}, "videos"), "train")
    assert result.class_names == ["Closing something", "Holding something next to something"]
    assert result.segments == [
        VideoSegment("78687.webm", "Holding something next to something", caption="holding potato next to bottle"),
        VideoSegment("42326.webm", "Closing something", caption="closing a door"),
    ]


def test_invalid_ssv2_files_are_rejected(tree):
    videos = tree({}, "videos")
    for name, text, message in (
        (
            "something-something-v2-train.json",
            '[{"id": "1", "template": "Eating [it]"}]',
            "'Eating it' of video 1 is not",
        ),
        ("something-something-v2-train.json", '[{"id": "1"}]', "has no id or template"),
        ("something-something-v2-train.json", "[", "is not valid JSON"),
        ("something-something-v2-labels.json", '{"a": "1"}', "with the numbers from 0"),
        ("something-something-v2-labels.json", '{"a": "x"}', "must be an object"),
        ("something-something-v2-labels.json", "3", "must be an object"),
        ("my-labels.json", "{}", "expected one file"),
    ):
        with pytest.raises(UserError, match=message):
            datasets.read("ssv2", tree(SSV2 | {name: text}, message[:5]), videos, "train")


EPIC_HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)
EPIC = {
    "EPIC_100_train.csv": EPIC_HEADER
    + "P01_01_0,P01,P01_01,00:00:01.089,00:00:00.10,00:00:00.30,8,202,open door,open,1,door,0,['door'],[0]\n"
    + 'P02_01_0,P02,P02_01,00:00:01.089,,,11,20,"take plate, quickly",take,0,plate,1,"[\'plate\', \'cup\']","[1, 2]"\n',
    "EPIC_100_verb_classes.csv": "id,key,instances,category\n0,take,\"['take', 'grab']\",get\n1,open,['open'],access\n",
    "EPIC_100_noun_classes.csv": "id,key,instances,category\n1,plate,['plate'],crockery\n0,door,['door'],furniture\n",
    "EPIC_100_noun_classes_v2.csv": "id,key,instances,category\n0,other,[],x\n",
    "EPIC_100_video_info.csv": "video_id,duration,fps,resolution\nP02_01,100.0,50.0,1920x1080\n",
}


def test_epic100_verbs_nouns_and_times(tree):
    result = datasets.read("epic100", tree(EPIC), tree({"P01/videos/P01_01.MP4": ""}, "videos"), "train")
    assert result.segments == [
        VideoSegment("P01/videos/P01_01.MP4", None, 0.1, 0.3, "open door", verb=1, noun=0),
        VideoSegment("P02/videos/P02_01.MP4", None, 0.2, 0.4, "take plate, quickly", verb=0, noun=1),
    ]
    assert result.class_names == []
    assert result.extra_files == {"verbs.txt": "take\nopen\n", "nouns.txt": "door\nplate\n"}


def test_invalid_epic100_files_are_rejected(tree):
    videos = tree({}, "videos")
    for name, text, message in (
        ("EPIC_100_video_info.csv", "video_id,fps\n", "line 3: no timestamps; frame numbers require"),
        ("EPIC_100_verb_classes.csv", "id,key\n0,take\n", "line 2: verb 1 or noun 0 is not in the class files"),
        ("EPIC_100_verb_classes.csv", "id,key\n0,take\n2,open\n", "the ids must be 0 to 1"),
        ("EPIC_100_train.csv", "video_id,narration\n", "no column 'verb_class'"),
    ):
        with pytest.raises(UserError, match=message):
            datasets.read("epic100", tree(EPIC | {name: text}, message[:9]), videos, "train")


UCF = {
    "classInd.txt": "1 ApplyEyeMakeup\n2 TaiChi\n",
    "trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\nTaiChi/v_TaiChi_g08_c01.avi 2\n",
    "testlist01.txt": "TaiChi/v_TaiChi_g01_c01.avi\r\n",
}


def test_ucf101_splits_and_class_names(tree):
    videos = tree({"v_TaiChi_g08_c01.mp4": ""}, "videos")
    result = datasets.read("ucf101", tree(UCF), videos, "train1")
    assert result.class_names == ["Apply Eye Makeup", "Tai Chi"]
    assert result.segments == [
        VideoSegment("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "Apply Eye Makeup"),
        VideoSegment("v_TaiChi_g08_c01.mp4", "Tai Chi"),
    ]
    assert datasets.read("ucf101", tree(UCF), videos, "test01").segments == [
        VideoSegment("TaiChi/v_TaiChi_g01_c01.avi", "Tai Chi")
    ]
    with pytest.raises(UserError, match="expected train1, train2"):
        datasets.read("ucf101", tree(UCF), videos, "train")
    with pytest.raises(UserError, match="one `NUMBER NAME` per line"):
        datasets.read("ucf101", tree(UCF | {"classInd.txt": "1 Apply Eye\n"}, "bad"), videos, "test1")
    with pytest.raises(UserError, match=r"is not a class in classInd\.txt"):
        datasets.read("ucf101", tree({"testlist01.txt": "Golf/v_x.avi\n"}), videos, "test1")


def test_hmdb51_splits_and_class_names(tree):
    lists = tree(
        {
            "brush_hair_test_split1.txt": "a_1.avi 1 \nb_1.avi 2 \nc_1.avi 0 \n",
            "wave_test_split1.txt": "a_1.avi 2 \n",
            "wave_test_split2.txt": "a_1.avi 1 \n",
        }
    )
    videos = tree({"wave/a_1.avi": "", "brush_hair/a_1.avi": ""}, "videos")
    assert datasets.read("hmdb51", lists, videos, "train1").segments == [
        VideoSegment("brush_hair/a_1.avi", "brush hair")
    ]
    test = datasets.read("hmdb51", lists, videos, "test1")
    assert test.segments == [VideoSegment("brush_hair/b_1.avi", "brush hair"), VideoSegment("wave/a_1.avi", "wave")]
    assert test.class_names == ["brush hair", "wave"]
    with pytest.raises(UserError, match="no file CLASS_test_split3"):
        datasets.read("hmdb51", lists, videos, "train3")
    with pytest.raises(UserError, match=r"line 1: 'a_1\.avi 7' must be `FILE 0`"):
        datasets.read("hmdb51", tree({"wave_test_split1.txt": "a_1.avi 7\n"}), videos, "train1")


def test_records_of_epic100_have_verb_noun_and_narration(tree, tmp_path):
    annotations, videos = tree(EPIC), tree({}, "videos")
    write_video(tmp_path / "videos" / "P01_01.mp4", frames=20)
    write_video(tmp_path / "videos" / "P02_01.mp4", frames=20)
    out = tmp_path / "out"
    command.main(
        ["--dataset=epic100", "--annotations", annotations, "--videos", videos, "--output", str(out), "--workers=1"]
    )
    example = examples(out)["P01_01.mp4"]
    assert (integers(example, records.VERB), integers(example, records.NOUN)) == ([1], [0])
    assert records.LABEL not in example.context.feature
    assert example.context.feature[records.CAPTION].bytes_list.value[0] == b"open door"
    assert numbers(images(example)) == [2, 3, 4, 5]
    assert (out / "verbs.txt").read_text() == "take\nopen\n" and not (out / "labels.txt").exists()


def test_records_of_kinetics_contain_only_the_segment_of_a_full_video(tree, tmp_path):
    lists, videos = tree({"train.csv": KINETICS + "yoga,full,1,2,train\nzumba,trimmed,1,2,train\n"}), tree({}, "videos")
    write_video(tmp_path / "videos" / "full.mp4", frames=40)
    write_video(tmp_path / "videos" / "trimmed_000001_000002.mp4", frames=20)
    out = tmp_path / "out"
    command.main(
        [
            "--dataset=kinetics600",
            "--annotations",
            lists,
            "--videos",
            videos,
            "--output",
            str(out),
            "--workers=1",
            "--fps=10",
        ]
    )
    by_filename = examples(out)
    assert numbers(images(by_filename["full.mp4"])) == list(range(20, 40, 2))
    assert numbers(images(by_filename["trimmed_000001_000002.mp4"])) == list(range(0, 20, 2))
    assert (out / "labels.txt").read_text() == "yoga\nzumba\n"
