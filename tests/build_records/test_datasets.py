"""Annotations of Something-Something v2, EPIC-KITCHENS-100, UCF101 and HMDB51, and the search for video files."""

import json

import pytest
from helpers.built_records import examples, images, integers
from helpers.video_files import numbers, write_video

from dist_jax import config as settings
from dist_jax.build_records import command, datasets
from dist_jax.build_records.video_files import VideoFiles
from dist_jax.data import records, sources
from dist_jax.errors import UserError
from dist_jax.video.video_list import VideoSegment


def test_video_files_are_found_by_name_or_by_folder_and_name(write_files):
    files = VideoFiles(write_files({"a/x.mp4": "", "b/x.mp4": "", "b/y.mp4": "", "z.MTS": "", "z.mp4": ""}))
    assert files.find("x") == "a/x.mp4"
    assert files.find("b/x") == "b/x.mp4"
    assert files.find("c/x") is None
    assert files.find("c/y") == "b/y.mp4"
    assert (files.find("z"), files.find("no")) == ("z.mp4", None)


def test_hidden_files_and_folders_are_not_searched(write_files):
    files = VideoFiles(write_files({".Trash-0/x.mp4": "", "b/x.mp4": "", "a/.y.mp4": "", "a/.b/z.mp4": ""}))
    assert files.find("x") == "b/x.mp4"
    assert [files.find(name) for name in (".Trash-0/x", "y", ".y", "z")] == ["b/x.mp4", None, None, None]


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


def test_ssv2_labels_and_captions(write_files):
    result = datasets.read("ssv2", write_files(SSV2), write_files({"42326.webm": ""}, "videos"), "train")
    assert result.class_names == ["Closing something", "Holding something next to something"]
    assert result.segments == [
        VideoSegment("78687.webm", "Holding something next to something", caption="holding potato next to bottle"),
        VideoSegment("42326.webm", "Closing something", caption="closing a door"),
    ]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train", '[{"id": "1", "template": "Eating [it]"}]', "'Eating it' of video 1 is not"),
        ("train", '[{"id": "1"}]', "has no id or template"),
        ("train", "[", "is not valid JSON"),
        ("labels", '{"a": "1"}', "with the numbers from 0"),
        ("labels", '{"a": "x"}', "must be an object"),
        ("labels", "3", "must be an object"),
    ],
)
def test_invalid_ssv2_files_are_rejected(write_files, file, text, message):
    annotations = write_files(SSV2 | {f"something-something-v2-{file}.json": text})
    with pytest.raises(UserError, match=message):
        datasets.read("ssv2", annotations, write_files({}, "videos"), "train")


def test_two_ssv2_label_files_are_rejected(write_files):
    with pytest.raises(UserError, match="expected one file"):
        datasets.read("ssv2", write_files(SSV2 | {"my-labels.json": "{}"}), write_files({}, "videos"), "train")


EPIC_HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)
EPIC = {
    "EPIC_100_train.csv": EPIC_HEADER
    + "P01_01_0,P01,P01_01,00:00:01.089,00:00:00.10,00:00:00.30,8,202,open door,open,1,door,0,['door'],[0]\n"
    + 'P02_101_0,P02,P02_101,0:00:01.09,,,10,20,"take plate, quickly",take,0,plate,1,"[\'plate\', \'cup\']","[1, 2]"\n',
    "EPIC_100_verb_classes.csv": "id,key,instances,category\n0,take,\"['take', 'grab']\",get\n1,open,['open'],access\n",
    "EPIC_100_noun_classes.csv": "id,key,instances,category\n1,plate,['plate'],crockery\n0,door,['door'],furniture\n",
    "EPIC_100_noun_classes_v2.csv": "id,key,instances,category\n0,other,[],x\n",
}


def test_epic100_verbs_nouns_and_times(write_files):
    result = datasets.read("epic100", write_files(EPIC), write_files({"P01/videos/P01_01.MP4": ""}, "videos"), "train")
    assert result.segments == [
        VideoSegment("P01/videos/P01_01.MP4", None, 0.1, 0.3, "open door", 1, 0, narration_id="P01_01_0"),
        VideoSegment("P02/videos/P02_101.MP4", None, 0.2, 0.4, "take plate, quickly", 0, 1, narration_id="P02_101_0"),
    ]
    assert result.class_names == []
    assert result.extra_files == {"verbs.txt": "take\nopen\n", "nouns.txt": "door\nplate\n"}


@pytest.mark.parametrize(("video", "times"), [("P09_08", (1.0, 2.0)), ("P01_101", (1.2, 2.4))])
def test_epic100_frame_numbers_count_60_or_50_frames_per_second(write_files, video, times):
    """EPIC-KITCHENS-55 (two-digit numbers) has 60, its extension 50. The rate of the video file has no influence."""
    row = f"{video}_0,{video[:3]},{video},,,,60,120,open door,open,1,door,0,['door'],[0]\n"
    annotations = write_files(EPIC | {"EPIC_100_train.csv": EPIC_HEADER + row})
    (segment,) = datasets.read("epic100", annotations, write_files({}, "videos"), "train").segments
    assert (segment.start_s, segment.end_s) == times


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train", EPIC_HEADER + "x,P1,kitchen,,,,10,20,take,take,0,plate,1,,\n", "line 2: .* not named like P01_01"),
        ("train", EPIC_HEADER + "x,P1,P01_01,,,,10,,take,take,0,plate,1,,\n", "line 2: neither start_timestamp and"),
        ("verb_classes", "id,key\n0,take\n", "line 2: verb 1 or noun 0 is not in the class files"),
        ("verb_classes", "id,key\n0,take\n2,open\n", "the ids must be 0 to 1"),
        ("train", "video_id,narration\n", "no column 'verb_class'"),
        ("train", EPIC_HEADER + 2 * "x,P1,P01_01,,,,10,20,take,take,0,plate,1,,\n", "'x' occurs 2 times"),
        ("train", EPIC_HEADER + ",P1,P01_01,,,,10,20,take,take,0,plate,1,,\n", "line 2: narration_id is empty"),
    ],
)
def test_invalid_epic100_files_are_rejected(write_files, file, text, message):
    annotations = write_files(EPIC | {f"EPIC_100_{file}.csv": text})
    with pytest.raises(UserError, match=message):
        datasets.read("epic100", annotations, write_files({}, "videos"), "train")


def test_epic100_without_the_column_of_narration_ids_has_none(write_files):
    lines = EPIC["EPIC_100_train.csv"].splitlines()
    without_ids = "".join(f"{line.partition(',')[2]}\n" for line in lines)
    annotations = write_files(EPIC | {"EPIC_100_train.csv": without_ids})
    segments = datasets.read("epic100", annotations, write_files({}, "videos"), "train").segments
    assert [segment.narration_id for segment in segments] == [None, None]


EPIC_TEST = (  # the published file has no labels and no narrations
    "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame\n"
    "P01_11_0,P01,P01_11,00:00:00.00,00:00:00.20,1,13\n"
    "P01_11_1,P01,P01_11,00:00:00.20,00:00:00.40,13,25\n"
)


def test_epic100_test_records_have_narration_ids_and_no_labels(write_files, tmp_path):
    annotations = write_files({"EPIC_100_test_timestamps.csv": EPIC_TEST})
    videos = write_files({}, "videos")
    write_video(tmp_path / "videos" / "P01_11.mp4", frames=20)
    command.main(
        [
            "--dataset=epic100",
            "--split=test",
            "--workers=1",
            f"--annotations={annotations}",
            f"--videos={videos}",
            "--output",
            str(tmp_path / "out"),
        ]
    )
    data = settings.defaults().data
    data.train, data.label_key = str(tmp_path / "out" / "test@1"), "verb"
    data.class_names_file = str(tmp_path / "verbs.txt")
    (tmp_path / "verbs.txt").write_text("take\nput\n")
    source = sources.open_source(data, "train")
    clips = [source.read(record) for record in range(source.size)]
    assert sorted((clip.id, clip.num_frames) for clip in clips) == [(b"P01_11_0", 4), (b"P01_11_1", 4)]
    assert all(clip.labels["verb"].shape == (0,) for clip in clips)
    assert not list((tmp_path / "out").glob("*.txt"))


def test_epic100_rejects_other_splits(write_files):
    with pytest.raises(UserError, match="'validation': expected train or val or test"):
        datasets.read("epic100", write_files(EPIC), write_files({}, "videos"), "validation")


def test_epic100_records_contain_verb_noun_and_narration(write_files, tmp_path):
    annotations, videos = write_files(EPIC), write_files({}, "videos")
    write_video(tmp_path / "videos" / "P01_01.mp4", frames=20)
    write_video(tmp_path / "videos" / "P02_101.mp4", frames=20)
    output = tmp_path / "out"
    options = ["--dataset=epic100", "--workers=1"]
    command.main([*options, f"--annotations={annotations}", f"--videos={videos}", f"--output={output}"])
    example = examples(output)["P01_01.mp4"]
    assert (integers(example, records.VERB), integers(example, records.NOUN)) == ([1], [0])
    assert records.LABEL not in example.context.feature
    assert example.context.feature[records.CAPTION].bytes_list.value[0] == b"open door"
    assert example.context.feature["clip/narration_id"].bytes_list.value[0] == b"P01_01_0"
    assert numbers(images(example)) == [2, 3, 4, 5]
    assert (output / "verbs.txt").read_text() == "take\nopen\n" and not (output / "labels.txt").exists()


UCF101 = {
    "classInd.txt": "1 ApplyEyeMakeup\n2 TaiChi\n",
    "trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\nTaiChi/v_TaiChi_g08_c01.avi 2\n",
    "testlist01.txt": "TaiChi/v_TaiChi_g01_c01.avi\r\n",
}


def test_ucf101_splits_and_class_names(write_files):
    videos = write_files({"v_TaiChi_g08_c01.mp4": ""}, "videos")
    result = datasets.read("ucf101", write_files(UCF101), videos, "train1")
    assert result.class_names == ["Apply Eye Makeup", "Tai Chi"]
    assert result.segments == [
        VideoSegment("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "Apply Eye Makeup"),
        VideoSegment("v_TaiChi_g08_c01.mp4", "Tai Chi"),
    ]
    assert datasets.read("ucf101", write_files(UCF101), videos, "test01").segments == [
        VideoSegment("TaiChi/v_TaiChi_g01_c01.avi", "Tai Chi")
    ]


def test_invalid_ucf101_splits_and_files_are_rejected(write_files):
    videos = write_files({}, "videos")
    with pytest.raises(UserError, match="expected train1, train2"):
        datasets.read("ucf101", write_files(UCF101), videos, "val")
    with pytest.raises(UserError, match="one `NUMBER NAME` per line"):
        datasets.read("ucf101", write_files(UCF101 | {"classInd.txt": "1 Apply Eye\n"}, "three_words"), videos, "test1")
    with pytest.raises(UserError, match=r"is not a class in classInd\.txt"):
        datasets.read("ucf101", write_files(UCF101 | {"testlist01.txt": "Golf/v_x.avi\n"}), videos, "test1")


def test_the_union_of_three_splits_has_every_video_once(write_files):
    lists = {"testlist02.txt": "TaiChi/v_b.avi\nTaiChi/v_TaiChi_g01_c01.avi\n", "testlist03.txt": "TaiChi/v_b.avi\n"}
    result = datasets.read("ucf101", write_files(UCF101 | lists), write_files({}, "videos"), "test")
    assert [segment.path for segment in result.segments] == ["TaiChi/v_TaiChi_g01_c01.avi", "TaiChi/v_b.avi"]
    assert result.class_names == ["Apply Eye Makeup", "Tai Chi"]
    with pytest.raises(UserError, match="testlist0"):
        datasets.read("ucf101", write_files(UCF101, "one_list"), write_files({}, "videos"), "test")


HMDB51 = {
    "brush_hair_test_split1.txt": "a_1.avi 1 \nb_1.avi 2 \nc_1.avi 0 \n",
    "wave_test_split1.txt": "a_1.avi 2 \n",
    "wave_test_split2.txt": "a_1.avi 1 \n",
}


def test_hmdb51_splits_and_class_names(write_files):
    lists, videos = write_files(HMDB51), write_files({"wave/a_1.avi": "", "brush_hair/a_1.avi": ""}, "videos")
    train, test = (datasets.read("hmdb51", lists, videos, split) for split in ("train1", "test1"))
    assert train.segments == [VideoSegment("brush_hair/a_1.avi", "brush hair")]
    assert test.segments == [VideoSegment("brush_hair/b_1.avi", "brush hair"), VideoSegment("wave/a_1.avi", "wave")]
    assert test.class_names == ["brush hair", "wave"]


def test_invalid_hmdb51_splits_and_files_are_rejected(write_files):
    videos = write_files({}, "videos")
    with pytest.raises(UserError, match="no file CLASS_test_split3"):
        datasets.read("hmdb51", write_files(HMDB51), videos, "train3")
    lists = write_files(HMDB51 | {"wave_test_split1.txt": "a_1.avi 7\n"})
    with pytest.raises(UserError, match=r"line 1: 'a_1\.avi 7' must be `FILE 0`"):
        datasets.read("hmdb51", lists, videos, "train1")


def test_an_empty_split_is_rejected(write_files):
    annotations = write_files(SSV2 | {"something-something-v2-train.json": "[]"})
    with pytest.raises(UserError, match="split train of ssv2 contains no videos"):
        datasets.read("ssv2", annotations, write_files({}, "videos"), "train")


@pytest.mark.parametrize("name", ["kinetics710", "hmdb51", "ucf101", "epic100", "ssv2"])
def test_a_file_instead_of_the_annotation_folder_is_rejected(write_files, name):
    annotations = write_files({"list.txt": "x"}) + "/list.txt"
    with pytest.raises(UserError, match=r"list\.txt: is a file; set --annotations to the folder"):
        datasets.read(name, annotations, write_files({}, "videos"), "train1")
