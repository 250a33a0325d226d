"""Clips from every source, and class names."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from helpers.small_records import NUM_CLASSES, decoded, example, jpeg, picture, stored_pixels, write_shards
from helpers.video_files import numbers, write_video

from dist_jax import config as settings
from dist_jax.data import records, sources
from dist_jax.data.record_reader import ChecksumError
from dist_jax.errors import UserError
from dist_jax.video.decoding import VideoError


def data_config(**fields):
    config = settings.defaults()
    for name, value in fields.items():
        config.data[name] = value
    return config.data


def read(source, record=0):
    """A clip and all its frames."""
    clip = source.read(record)
    return clip, decoded(clip)


def source_of_one_record(tmp_path, serialized, **fields):
    return sources.open_source(data_config(train=write_shards(tmp_path, [serialized], shards=1), **fields), "train")


def test_a_record_has_its_frames_labels_and_name(tmp_path):
    source = source_of_one_record(tmp_path, example(7))
    clip, video = read(source)
    assert (source.size, source.num_classes) == (1, {"label": NUM_CLASSES})
    assert [clip.num_frames, clip.height, clip.width] == [6, 24, 32]
    assert clip.labels["label"].tolist() == [2]
    assert clip.id == b"7.mp4"
    expected = [stored_pixels(7, frame) for frame in range(6)]
    np.testing.assert_array_equal(video, expected)
    assert "train-00000-of-00001 at byte 0" in source.location(0)


def test_records_written_by_dmvrs_generator_are_read(tmp_path):
    # DMVR's script writes one feature per frame and scalar context clip. Here there is an audio list as well.
    sequence = tf.train.SequenceExample()
    sequence.context.feature["clip/label/index"].int64_list.value[:] = (4,)
    sequence.context.feature["clip/label/text"].bytes_list.value[:] = (b"class 4",)
    sequence.context.feature["video/filename"].bytes_list.value[:] = (b"folder/v.avi",)
    sequence.context.feature["clip/start/timestamp"].int64_list.value[:] = (0,)
    sequence.context.feature["clip/end/timestamp"].int64_list.value[:] = (2_000_000,)
    for frame in range(3):
        sequence.feature_lists.feature_list["image/encoded"].feature.add().bytes_list.value[:] = [
            jpeg(picture(1, frame))
        ]
    sequence.feature_lists.feature_list["WAVEFORM/feature/floats"].feature.add().float_list.value[:] = [0.5, 0.25]
    clip, video = read(source_of_one_record(tmp_path, sequence.SerializeToString()))
    assert clip.labels["label"].tolist() == [4]
    assert clip.id == b"folder/v.avi"
    assert video.shape == (3, 24, 32, 3)


def test_label_key_selects_labels_verb_or_noun(tmp_path):
    serialized = records.make_example([jpeg(picture(0, 0))], [1, 3], ["a", "b"], "v", 0, 1, verb=2, noun=4)
    for name, labels in {"label": [1, 3], "verb": [2], "noun": [4]}.items():
        fields = dict(label_key=name, class_names_file=str(tmp_path / "labels.txt"))
        clip, _ = read(source_of_one_record(tmp_path, serialized, **fields))
        assert {name: numbers.tolist() for name, numbers in clip.labels.items()} == {name: labels}


def test_the_id_of_a_record_is_the_narration_id_if_it_has_one(tmp_path):
    with_id = records.make_example([jpeg(picture(0, 0))], 0, "a", "v.mp4", 0, 1, narration_id="P01_01_7")
    source = source_of_one_record(tmp_path, with_id)
    assert source.read(0).id == b"P01_01_7"


def test_the_id_of_a_record_without_a_name_is_its_number(tmp_path):
    sequence = tf.train.SequenceExample()
    sequence.feature_lists.feature_list["image/encoded"].feature.add().bytes_list.value[:] = [jpeg(picture(1, 0))]
    clip, _ = read(source_of_one_record(tmp_path, sequence.SerializeToString()))
    assert clip.id == b"0"
    assert clip.labels["label"].tolist() == []


def test_a_damaged_byte_fails_the_checksum(tmp_path):
    source = source_of_one_record(tmp_path, example(0))
    path = tmp_path / "train-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumError):
        source.read(0)


def test_a_record_without_frames_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="no frames"):
        read(source_of_one_record(tmp_path, tf.train.SequenceExample().SerializeToString()))


def test_an_empty_split_setting_is_an_error():
    with pytest.raises(UserError, match=r"data\.val is empty"):
        sources.open_source(data_config(), "val")


def test_class_names_keep_the_order_of_the_file(tmp_path):
    (tmp_path / "names.txt").write_text("walk\nrun fast\n  jump \n")
    data = data_config(class_names_file=str(tmp_path / "names.txt"))
    assert sources.class_names(data) == {"label": ["walk", "run fast", "jump"]}


def test_class_names_default_to_labels_txt_next_to_the_training_data(tmp_path):
    pattern = write_shards(tmp_path, [example(0)])
    for train in (pattern, str(tmp_path)):
        assert len(sources.class_names(data_config(train=train))["label"]) == NUM_CLASSES


def test_a_record_of_a_verb_and_a_noun_has_both_labels(tmp_path):
    serialized = records.make_example([jpeg(picture(0, 0))], None, None, "v", 0, 1, verb=2, noun=1)
    train = write_shards(tmp_path, [serialized], shards=1)
    (tmp_path / "verbs.txt").write_text("take\nput\nopen\n")
    (tmp_path / "nouns.txt").write_text("door\ncup\n")
    data = data_config(train=train, label_key="verb,noun")
    assert list(sources.class_names(data).items()) == [("verb", ["take", "put", "open"]), ("noun", ["door", "cup"])]
    source = sources.open_source(data, "train")
    assert source.num_classes == {"verb": 3, "noun": 2}
    assert {name: numbers.tolist() for name, numbers in source.read(0).labels.items()} == {"verb": [2], "noun": [1]}
    assert sources.class_names(data_config(train=train, label_key="noun")) == {"noun": ["door", "cup"]}
    (tmp_path / "nouns.txt").unlink()
    with pytest.raises(UserError, match=r"nouns\.txt does not exist"):
        sources.open_source(data, "train")


def test_two_labels_take_two_files_of_class_names(tmp_path):
    (tmp_path / "a,b.txt").write_text("open\n")
    (tmp_path / "c.txt").write_text("door\ncup\n")
    one, other = str(tmp_path / "a,b.txt"), str(tmp_path / "c.txt")
    both = data_config(label_key="verb,noun", class_names_file=f"{other}, {other}")
    assert sources.class_names(both) == {"verb": ["door", "cup"], "noun": ["door", "cup"]}
    assert sources.class_names(data_config(label_key="verb", class_names_file=one)) == {"verb": ["open"]}
    for label_key, paths, message in [
        ("verb,noun", other, "one file per label of data.label_key=verb,noun, separated by commas, but has 1"),
        ("noun", f"{other},{other}", "one file per label of data.label_key=noun, separated by commas, but has 2"),
        ("verb,noun", f"{other},no.txt", "data.class_names_file=no.txt does not exist"),
    ]:
        with pytest.raises(UserError, match=message):
            sources.class_names(data_config(label_key=label_key, class_names_file=paths))


@pytest.mark.parametrize("source", ["videos", "tfds"])
def test_sources_of_a_single_label_reject_two(source, tmp_path):
    (tmp_path / "names.txt").write_text("a\n")
    names = f"{tmp_path / 'names.txt'},{tmp_path / 'names.txt'}"
    message = f"data.label_key=verb,noun: data.source={source} needs a single label"
    with pytest.raises(UserError, match=message):
        sources.class_names(data_config(source=source, train="x", label_key="verb,noun"))
    with pytest.raises(UserError, match=message):
        data = data_config(source=source, train="x", label_key="verb,noun", class_names_file=names)
        sources.open_source(data, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [("a\n\nb\n", "line 2 is empty"), ("a\nb\na\n", "lines 1 and 3 are both 'a'"), ("", "no class names")],
)
def test_an_invalid_file_of_class_names_is_an_error(tmp_path, content, message):
    (tmp_path / "labels.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        sources.class_names(data_config(class_names_file=str(tmp_path / "labels.txt")))


def test_class_names_in_a_different_order_than_in_the_records_are_an_error(tmp_path):
    pattern = write_shards(tmp_path, [example(record) for record in range(10)])
    (tmp_path / "other.txt").write_text("class 0\nclass 2\nclass 1\nclass 3\nclass 4\n")
    with pytest.raises(
        UserError,
        match=r"class [12] is 'class [12]' in .*, but 'class [12]' in the class names, where 'class [12]' is class",
    ):
        sources.open_source(data_config(train=pattern, class_names_file=str(tmp_path / "other.txt")), "train")


def test_new_class_names_give_one_warning(tmp_path, capsys):
    pattern = write_shards(tmp_path, [example(record) for record in range(10)])
    (tmp_path / "same.txt").write_text("Class_0\nCLASS 1\nclass 2\nclass3\nclass 4\n")
    assert (
        sources.open_source(data_config(train=pattern, class_names_file=str(tmp_path / "same.txt")), "train").size == 10
    )
    assert capsys.readouterr().err == ""
    (tmp_path / "better.txt").write_text("".join(f"a person doing {k}\n" for k in range(NUM_CLASSES)))
    assert (
        sources.open_source(data_config(train=pattern, class_names_file=str(tmp_path / "better.txt")), "train").size
        == 10
    )
    assert capsys.readouterr().err.count("but 'a person doing 0' in the class names") == 1


def test_the_error_for_missing_class_names_shows_a_name_from_the_records(tmp_path):
    pattern = write_shards(tmp_path, [example(3)], shards=1)
    (tmp_path / "labels.txt").unlink()
    with pytest.raises(
        UserError, match=r"set data\.class_names_file .*the records contain clip/label/text, e\.g\. class 3: 'class 3'"
    ):
        sources.class_names(data_config(train=pattern))


def test_missing_class_names_are_an_error(tmp_path):
    with pytest.raises(UserError, match=r"set data\.class_names_file"):
        sources.class_names(data_config(train=str(tmp_path / "train@2")))


@pytest.fixture
def video_folder(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", frames=20, width=64, height=48, rate=20)
    (tmp_path / "train.txt").write_text("0.mp4 jump\n1.mp4 run fast\n2.mp4 jump\n")
    return tmp_path


def test_a_list_of_videos_is_a_source(video_folder):
    config = data_config(source="videos", train=str(video_folder / "train.txt"))
    assert sources.class_names(config) == {"label": ["jump", "run fast"]}
    source = sources.open_source(config, "train")
    clip, video = read(source, 1)
    assert (source.size, source.num_classes) == (3, {"label": 2})
    assert [clip.num_frames, clip.height, clip.width] == [20, 48, 64]
    assert (clip.labels["label"].tolist(), clip.id) == ([1], b"1.mp4")
    assert numbers(video) == list(range(20))


def test_only_the_chosen_frames_and_window_of_a_video_are_returned(video_folder):
    source = sources.open_source(data_config(source="videos", train=str(video_folder / "train.txt")), "train")
    video = decoded(source.read(0), [3, 17], [4, 8, 20, 30])
    assert video.shape == (2, 20, 30, 3)
    assert numbers(video) == [3, 17]


def test_copied_videos_are_the_same_data(video_folder, tmp_path):
    copies = shutil.copytree(video_folder, tmp_path / "copies", copy_function=shutil.copyfile)
    os.utime(copies / "0.mp4", ns=(1, 1))
    identities = [
        sources.open_source(data_config(source="videos", train=str(folder / "train.txt")), "train").identity
        for folder in (video_folder, copies)
    ]
    assert identities[0] == identities[1]


def test_a_list_with_times_gives_segments_of_a_video(video_folder):
    (video_folder / "segments.csv").write_text("path,label,start,end\n0.mp4,jump,0.25,0.5\n0.mp4,run fast,0.9,\n")
    source = sources.open_source(data_config(source="videos", train=str(video_folder / "segments.csv")), "train")
    assert numbers(read(source, 0)[1]) == [5, 6, 7, 8, 9]  # 20 frames per second
    assert numbers(read(source, 1)[1]) == [18, 19]


def test_a_list_with_the_column_labels_gives_all_labels_of_a_video(video_folder):
    (video_folder / "many.csv").write_text("path,labels\n0.mp4,run|jump\n1.mp4,\n2.mp4,a|b|run\n")
    data = data_config(source="videos", train=str(video_folder / "many.csv"))
    assert sources.class_names(data) == {"label": ["a", "b", "jump", "run"]}
    source = sources.open_source(data, "train")
    labels = [source.read(record).labels["label"].tolist() for record in range(3)]
    assert labels == [[3, 2], [], [0, 1, 3]]


def test_the_error_for_numeric_labels_names_the_setting_for_class_names(video_folder):
    (video_folder / "numbers.txt").write_text("0.mp4 0\n1.mp4 1\n")
    with pytest.raises(UserError, match=r"the labels are numbers .* with data\.class_names_file,"):
        sources.class_names(data_config(source="videos", train=str(video_folder / "numbers.txt")))


def test_a_folder_with_one_subfolder_per_class_is_a_source(tmp_path):
    for name in ("jump", "run"):
        (tmp_path / name).mkdir()
        write_video(tmp_path / name / "0.mp4", frames=3)
    source = sources.open_source(data_config(source="videos", train=str(tmp_path)), "train")
    assert [source.read(record).labels["label"].tolist() for record in range(2)] == [[0], [1]]


def test_a_missing_video_is_an_error_when_the_source_is_opened(video_folder):
    (video_folder / "1.mp4").unlink()
    with pytest.raises(UserError, match=r"1 of 3 videos are missing, first .*1\.mp4"):
        sources.open_source(data_config(source="videos", train=str(video_folder / "train.txt")), "train")


def test_an_unreadable_video_cannot_be_read_but_the_others_can(video_folder):
    source = sources.open_source(data_config(source="videos", train=str(video_folder / "train.txt")), "train")
    (video_folder / "1.mp4").write_bytes(b"not a video")
    with pytest.raises(VideoError, match=r"1\.mp4: cannot be read"):
        source.read(1)
    assert [source.read(record).id for record in (0, 2)] == [b"0.mp4", b"2.mp4"]


def test_an_unknown_label_in_the_validation_list_is_an_error(video_folder):
    (video_folder / "val.txt").write_text("0.mp4 jumping\n")
    config = data_config(source="videos", train=str(video_folder / "train.txt"), val=str(video_folder / "val.txt"))
    with pytest.raises(UserError, match="'jumping' is not among the 2 class names; the nearest is 'jump'"):
        sources.open_source(config, "val")


class TinyVideos(tfds.core.GeneratorBasedBuilder):
    """Six clips of three frames in two classes."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "video": tfds.features.Video(shape=(None, 24, 32, 3)),
            "label": tfds.features.ClassLabel(names=["a", "b"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for record in range(6):
            yield record, {"video": [picture(record, frame) for frame in range(3)], "label": record % 2}


@pytest.fixture(scope="module")
def tiny_tfds(tmp_path_factory):
    builder = TinyVideos(data_dir=str(tmp_path_factory.mktemp("tfds")))
    builder.download_and_prepare()
    return builder


def test_a_tfds_data_set_is_read_with_encoded_frames(tiny_tfds):
    config = data_config(source="tfds", train=f"{tiny_tfds.data_dir}:train")
    assert sources.class_names(config) == {"label": ["a", "b"]}
    source = sources.open_source(config, "train")
    assert (source.size, source.num_classes) == (6, {"label": 2})
    expected = list(tiny_tfds.as_dataset(split="train", shuffle_files=False).as_numpy_iterator())
    for record in range(6):
        clip, video = read(source, record)
        np.testing.assert_array_equal(video, expected[record]["video"])
        assert clip.labels["label"].tolist() == [expected[record]["label"]]
        assert clip.id == b"%d" % record


def test_a_slice_of_a_tfds_split_has_the_records_of_the_slice(tiny_tfds):
    whole = sources.open_source(data_config(source="tfds", train=f"{tiny_tfds.data_dir}:train"), "train")
    part = sources.open_source(data_config(source="tfds", train=f"{tiny_tfds.data_dir}:train[2:5]"), "train")
    rest = sources.open_source(data_config(source="tfds", train=f"{tiny_tfds.data_dir}:train[5:]"), "train")
    assert (part.size, rest.size) == (3, 1)
    np.testing.assert_array_equal(read(part, 0)[1], read(whole, 2)[1])
    np.testing.assert_array_equal(read(rest, 0)[1], read(whole, 5)[1])


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("{}", "has no split"),
        ("{}:test", "no split 'test'; use one of train"),
        ("no_such_data_set:train", "is not a TFDS data set"),
        ("tiny_videos:train", "is not prepared in"),
    ],
)
def test_an_unknown_or_unprepared_tfds_data_set_or_split_is_an_error(
    tiny_tfds, tmp_path, monkeypatch, location, message
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    config = data_config(source="tfds", train=location.format(tiny_tfds.data_dir))
    with pytest.raises(UserError, match=message):
        sources.open_source(config, "train")


def test_remote_records_are_found_indexed_and_read():
    # TensorFlow's in-memory file system has the same interface as gs://.
    folder = "ram://records"
    tf.io.gfile.makedirs(folder)
    for shard in range(2):
        with tf.io.TFRecordWriter(records.shard_path(f"{folder}/train", shard, 2)) as writer:
            writer.write(example(shard))
    with tf.io.gfile.GFile(f"{folder}/labels.txt", "w") as file:
        file.write("a\nb\nc\n")
    for name in ("train@2", "", "train-*-of-00002"):
        source = sources.open_source(data_config(train=f"{folder}/{name}"), "train")
        assert [source.read(record).id for record in range(source.size)] == [b"0.mp4", b"1.mp4"]
    assert tf.io.gfile.exists(f"{folder}/train.index.npz")
    with pytest.raises(UserError, match="3 of 3 shards are missing"):
        sources.open_source(data_config(train=f"{folder}/train@3"), "train")
