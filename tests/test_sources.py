"""One element from every source; the file of class names."""

import numpy as np
import pytest
import tensorflow as tf
from small_records import CLASSES, example, jpeg, picture, write_shards

from dist_jax import config as settings
from dist_jax.data import records, sources
from dist_jax.errors import UserError


def data(**fields):
    config = settings.defaults()
    for name, value in fields.items():
        settings.override(config, f"data.{name}", value)
    return config.data


def read(source, record=0):
    features = source.read(tf.constant(record, tf.int64))
    whole = {
        "indices": tf.range(features["num_frames"]),
        "window": tf.stack([0, 0, features["height"], features["width"]]),
    }
    return features, source.decode(features | whole)["video"].numpy()


def written(tmp_path, serialized, **fields):
    return sources.open_source(data(train=write_shards(tmp_path, [serialized], shards=1), **fields), "train")


def test_a_record_gives_its_frames_labels_and_name(tmp_path):
    source = written(tmp_path, example(7))
    features, video = read(source)
    assert (source.size, source.classes) == (1, CLASSES)
    assert [int(features[name]) for name in ("num_frames", "height", "width")] == [6, 24, 32]
    assert features["labels"].numpy().tolist() == [2]
    assert features["id"].numpy() == b"7.mp4"
    expected = [tf.io.decode_jpeg(jpeg(picture(7, frame))).numpy() for frame in range(6)]
    np.testing.assert_array_equal(video, expected)
    assert "train-00000-of-00001 at byte 0" in source.where(0)


def test_records_as_dmvrs_generator_writes_them_are_read(tmp_path):
    # Its script adds one feature a frame, scalar context entries, and here an audio list and no file name's folder.
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
    features, video = read(written(tmp_path, sequence.SerializeToString()))
    assert features["labels"].numpy().tolist() == [4]
    assert features["id"].numpy() == b"folder/v.avi"
    assert video.shape == (3, 24, 32, 3)


def test_several_labels_are_kept_and_verb_and_noun_are_a_choice(tmp_path):
    serialized = records.make_example([jpeg(picture(0, 0))], [1, 3], ["a", "b"], "v", 0, 1, verb=2, noun=4)
    for name, labels in {"label": [1, 3], "verb": [2], "noun": [4]}.items():
        assert read(written(tmp_path, serialized, label=name))[0]["labels"].numpy().tolist() == labels
        for file in tmp_path.glob("train*"):
            file.unlink()


def test_a_record_without_a_name_is_named_by_its_number(tmp_path):
    sequence = tf.train.SequenceExample()
    sequence.feature_lists.feature_list["image/encoded"].feature.add().bytes_list.value[:] = [jpeg(picture(1, 0))]
    features, _ = read(written(tmp_path, sequence.SerializeToString()))
    assert features["id"].numpy() == b"0"
    assert features["labels"].numpy().tolist() == []


def test_a_damaged_byte_is_found_by_the_checksum(tmp_path):
    source = written(tmp_path, example(0))
    path = tmp_path / "train-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(tf.errors.DataLossError):
        source.read(tf.constant(0, tf.int64))


def test_a_record_without_frames_cannot_be_read(tmp_path):
    with pytest.raises(tf.errors.InvalidArgumentError, match="no frames"):
        read(written(tmp_path, tf.train.SequenceExample().SerializeToString()))


def test_an_unnamed_split_is_an_error():
    with pytest.raises(UserError, match=r"data\.val is empty"):
        sources.open_source(data(), "val")


def test_class_names_keep_the_order_of_the_file(tmp_path):
    (tmp_path / "names.txt").write_text("walk\nrun fast\n  jump \n")
    assert sources.class_names(data(labels=str(tmp_path / "names.txt"))) == ["walk", "run fast", "jump"]


def test_class_names_stand_beside_the_training_data(tmp_path):
    pattern = write_shards(tmp_path, [example(0)])
    for train in (pattern, str(tmp_path)):
        assert len(sources.class_names(data(train=train))) == CLASSES


@pytest.mark.parametrize(
    ("content", "message"),
    [("a\n\nb\n", "line 2 is empty"), ("a\nb\na\n", "'a' stands twice"), ("", "no class names")],
)
def test_a_bad_file_of_class_names_is_refused(tmp_path, content, message):
    (tmp_path / "labels.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        sources.class_names(data(labels=str(tmp_path / "labels.txt")))


def test_no_file_of_class_names_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"set data\.labels"):
        sources.class_names(data(train=str(tmp_path / "train@2")))
