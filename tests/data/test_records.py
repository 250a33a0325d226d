"""Record format, shard names and the index of records."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers.small_records import example, write_shards
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_jax import files
from dist_jax.data import record_index, records
from dist_jax.errors import UserError


@pytest.fixture
def pattern(tmp_path):
    return write_shards(tmp_path, [example(record) for record in range(7)], shards=3)


def shard(pattern, number=1):
    return Path(records.find_shards(pattern)[number])


def test_an_example_has_the_features_that_dmvr_readers_expect():
    serialized = records.make_example([b"one", b"two"], 3, "kick", "v.mp4", 5, 7, caption="a kick", verb=1, noun=2)
    parsed = tf.train.SequenceExample.FromString(serialized)
    context = parsed.context.feature
    assert context["clip/label/index"].int64_list.value == [3]
    assert context["clip/label/text"].bytes_list.value == [b"kick"]
    assert context["video/filename"].bytes_list.value == [b"v.mp4"]
    assert context["clip/start/timestamp"].int64_list.value == [5]
    assert context["clip/end/timestamp"].int64_list.value == [7]
    assert context["caption/string"].bytes_list.value == [b"a kick"]
    assert [f.bytes_list.value for f in parsed.feature_lists.feature_list["image/encoded"].feature] == [
        [b"one"],
        [b"two"],
    ]


def test_an_example_may_have_several_labels_or_none():
    several = tf.train.SequenceExample.FromString(records.make_example([b"x"], [1, 4], ["a", "b"], "v", 0, 1))
    assert several.context.feature[records.LABEL].int64_list.value == [1, 4]
    without = tf.train.SequenceExample.FromString(records.make_example([b"x"], None, None, "v", 0, 1, verb=0, noun=3))
    assert records.LABEL not in without.context.feature
    assert without.context.feature[records.VERB].int64_list.value == [0]


def test_an_example_needs_frames_and_one_text_per_label():
    with pytest.raises(ValueError, match="at least one frame"):
        records.make_example([], 0, "a", "v", 0, 1)
    with pytest.raises(ValueError, match="2 labels but 1 label texts"):
        records.make_example([b"x"], [0, 1], "a", "v", 0, 1)


def test_the_same_example_gives_the_same_bytes():
    assert example(3) == example(3)


def test_shards_are_found_by_set_name_folder_prefix_and_glob(tmp_path, pattern):
    expected = [str(tmp_path / f"train-0000{i}-of-00003") for i in range(3)]
    globs = [tmp_path / "train-?????-of-?????", tmp_path / "train-*", tmp_path / "train-0000[012]-of-00003"]
    for name in [pattern, tmp_path, tmp_path / "train", *globs]:
        assert records.find_shards(str(name)) == expected


def test_shards_with_a_suffix_are_found(tmp_path):
    expected = [str(tmp_path / f"train-0000{i}-of-00003.tfrecord") for i in range(3)]
    for path, record in zip(expected, range(3), strict=True):
        with tf.io.TFRecordWriter(path) as writer:
            writer.write(example(record))
    for name in ("train@3.tfrecord", "train", "train*", ""):
        assert records.find_shards(str(tmp_path / name)) == expected
    assert len(record_index.load_index(str(tmp_path / "train@3.tfrecord"))) == 3
    assert (tmp_path / "train.tfrecord.index.npz").exists()


def test_a_prefix_may_contain_glob_characters(tmp_path):
    pattern = write_shards(tmp_path / "a[1]", [example(0), example(1)], shards=2, name="x[2]*")
    assert records.find_shards(pattern.partition("@")[0]) == records.find_shards(pattern)
    assert records.find_shards(f"{pattern.partition('@')[0]}-00000-of-00002") == records.find_shards(pattern)[:1]
    assert records.shards_of(str(tmp_path / "a[1]" / "x[2]")) == []


def test_a_glob_skips_index_files_hidden_folders_and_other_folders(tmp_path, pattern):
    expected = records.find_shards(pattern)
    record_index.load_index(pattern)
    (tmp_path / "labels.txt").unlink()
    (tmp_path / ".train.build").mkdir()
    (tmp_path / "train_videos").mkdir()
    assert records.find_shards(str(tmp_path / "*")) == expected


def test_an_unreadable_shard_is_named(tmp_path, pattern):
    shard(pattern).unlink()
    shard_folder = tmp_path / "train-00001-of-00003"
    shard_folder.mkdir()
    with pytest.raises(UserError, match="train-00001-of-00003: cannot be read"):
        record_index.load_index(pattern)
    with pytest.raises(UserError, match="no shards are given"):
        record_index.load_index_of([])


def test_each_selection_of_shards_has_its_own_index(tmp_path):
    paths = records.find_shards(write_shards(tmp_path, [example(record) for record in range(5)], shards=5))
    for _ in range(2):  # the first time builds, the second reads
        selections = (paths[:4], paths[3:], paths, paths[::-1])
        sizes = [len(record_index.load_index_of(selection)) for selection in selections]
        assert sizes == [4, 2, 5, 5]
    assert record_index.load_index_of(paths[3:]).paths == paths[3:]
    assert len(list(tmp_path.glob("*.index.npz"))) == 4
    assert (tmp_path / "train.index.npz").exists()


def test_a_folder_with_two_sets_is_an_error(tmp_path, pattern):
    write_shards(tmp_path, [example(0)], shards=1, name="val")
    with pytest.raises(UserError, match=r"several sets.*train@3.*val@1"):
        records.find_shards(str(tmp_path))


@pytest.mark.parametrize("name", ["train@3", "train-*", "."])
def test_a_missing_shard_is_named(tmp_path, pattern, name):
    shard(pattern).unlink()
    with pytest.raises(UserError, match="train-00001-of-00003"):
        records.find_shards(str(tmp_path / name))


@pytest.mark.parametrize("name", ["", "nothing@2", "nothing-*", "nothing", "train@0"])
def test_missing_shards_are_an_error(tmp_path, name):
    with pytest.raises(UserError):
        records.find_shards(str(tmp_path / name) if name else "")


def test_the_index_has_the_position_of_every_record(pattern):
    index = record_index.load_index(pattern)
    assert len(index) == 7
    for record in range(7):
        data = Path(index.paths[index.shard[record]]).read_bytes()
        begin = index.offset[record] + 12
        parsed = tf.train.SequenceExample.FromString(data[begin : begin + index.length[record]])
        # Shard 0 has examples 0, 3, 6; shard 1 has 1, 4; shard 2 has 2, 5.
        assert parsed.context.feature[records.FILENAME].bytes_list.value == [b"%d.mp4" % [0, 3, 6, 1, 4, 2, 5][record]]


def test_the_index_is_stored_next_to_the_shards_and_read_again(tmp_path, pattern):
    built = record_index.load_index(pattern)
    assert (tmp_path / "train.index.npz").exists()
    read = record_index.load_index(pattern)
    assert read.paths == built.paths
    for name in ("sizes", "shard", "offset", "length", "checksum"):
        np.testing.assert_array_equal(getattr(read, name), getattr(built, name))


def test_the_index_can_be_moved_with_its_shards(tmp_path, pattern):
    record_index.load_index(pattern)
    (tmp_path / "elsewhere").mkdir()
    for path in [*tmp_path.glob("train*")]:
        path.rename(tmp_path / "elsewhere" / path.name)
    assert len(record_index.load_index(str(tmp_path / "elsewhere" / "train@3"))) == 7


CHANGED = r"train-0000{}-of-00003 has changed .*{}.*delete .*train\.index\.npz"


def test_a_shard_with_another_size_is_an_error(pattern):
    record_index.load_index(pattern)
    with tf.io.TFRecordWriter(str(shard(pattern))) as writer:
        writer.write(example(1))
    with pytest.raises(UserError, match=CHANGED.format(1, r"\d+ bytes before, \d+ now")):
        record_index.load_index(pattern)


@pytest.mark.parametrize("position", [0, 10, 20], ids=["first", "middle", "last"])
def test_a_rewritten_record_of_the_same_size_is_an_error(tmp_path, position):
    contents = [b"%03d" % record for record in range(21)]
    pattern = write_shards(tmp_path, contents, shards=1)
    record_index.load_index(pattern)
    contents[position] = b"new"
    write_shards(tmp_path, contents, shards=1)
    with pytest.raises(UserError, match=f"same size, but another record at byte {19 * position}"):
        record_index.load_index(pattern)


def test_a_large_set_is_compared_by_the_ends_of_its_shards_and_samples_between_them(tmp_path, monkeypatch):
    monkeypatch.setattr(record_index, "_NUM_SAMPLED", 4)
    index = record_index.load_index(write_shards(tmp_path, [b"%03d" % record for record in range(62)], shards=2))
    assert index._sampled_records() == [0, 20, 30, 31, 40, 61]


def test_exchanged_shards_are_an_error(tmp_path):
    pattern = write_shards(tmp_path, [b"%03d" % record for record in range(9)], shards=3)
    record_index.load_index(pattern)
    first, last = shard(pattern, 0), shard(pattern, 2)
    first.rename(tmp_path / "first")
    last.rename(first)
    (tmp_path / "first").rename(last)
    with pytest.raises(UserError, match=CHANGED.format(0, "same size")):
        record_index.load_index(pattern)


def test_a_shard_that_is_missing_although_the_index_lists_it_is_an_error(pattern):
    index = record_index.load_index(pattern)
    shard(pattern).unlink()
    with pytest.raises(UserError, match="train-00001-of-00003 is missing"):
        index.verify()


def test_an_empty_shard_is_compared_by_its_size(tmp_path):
    pattern = write_shards(tmp_path, [b"a", b"b"], shards=4)
    record_index.load_index(pattern)
    assert len(record_index.load_index(pattern)) == 2
    shard(pattern, 3).write_bytes(shard(pattern, 0).read_bytes())
    with pytest.raises(UserError, match="0 bytes before, 17 now"):
        record_index.load_index(pattern)


def test_copied_shards_with_new_modification_times_fit_the_index_and_have_the_same_identity(tmp_path, pattern):
    identity = record_index.load_index(pattern).identity
    copies = shutil.copytree(tmp_path, tmp_path / "copies", copy_function=shutil.copyfile)  # sets new times
    for number, path in enumerate(sorted(copies.iterdir())):
        os.utime(path, ns=(number, number))
    stored = (copies / "train.index.npz").read_bytes()
    assert record_index.load_index(str(copies / "train@3")).identity == identity
    assert (copies / "train.index.npz").read_bytes() == stored
    (copies / "train.index.npz").unlink()
    assert record_index.load_index(str(copies / "train@3")).identity == identity


@pytest.mark.parametrize("number", [1, 2])
def test_an_index_of_another_format_is_built_again_without_a_message(tmp_path, pattern, number, capsys):
    index = record_index.load_index(pattern)
    names = np.array([os.path.basename(path) for path in index.paths])
    older = dict(names=names, sizes=index.sizes, mtimes=index.sizes, shard=index.shard, offset=index.offset)
    np.savez(tmp_path / "train.index.npz", format=np.array(number), length=index.length, **older)
    assert record_index.load_index(pattern).identity == index.identity
    assert np.load(tmp_path / "train.index.npz")["format"] == 3
    assert capsys.readouterr().err == ""


def test_write_index_replaces_an_older_one(tmp_path, pattern):
    record_index.load_index(pattern)
    write_shards(tmp_path, [example(record) for record in range(5)], shards=3)
    record_index.write_index(str(tmp_path / "train"), 3)
    assert len(record_index.load_index(pattern)) == 5


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"\x80\x04N."])
def test_a_damaged_index_is_an_error(tmp_path, pattern, content):
    (tmp_path / "train.index.npz").write_bytes(content)
    with pytest.raises(UserError, match="not an index of records"):
        record_index.load_index(pattern)


@settings(max_examples=25)
@given(data=st.data())
def test_a_shard_truncated_anywhere_is_an_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("truncated")
    pattern = write_shards(folder, [b"a" * 30, b"b" * 50], shards=1)
    whole = shard(pattern, 0).read_bytes()
    cut = data.draw(st.integers(1, len(whole) - 1).filter(lambda size: size != 12 + 30 + 4))
    shard(pattern, 0).write_bytes(whole[:cut])
    with pytest.raises(UserError, match="is truncated"):
        record_index.load_index(pattern)


@settings(max_examples=25)
@given(position=st.integers(0, 11), bit=st.integers(0, 7), record=st.integers(0, 2))
def test_the_record_after_a_damaged_header_is_found(tmp_path_factory, position, bit, record):
    folder = tmp_path_factory.mktemp("damaged")
    # Zeros and data that looks like a header must not be taken for a header. The lengths differ.
    pattern = write_shards(folder, [bytes(30), b"b" * 50, bytes([1, 0, 0, 0] * 20)], shards=1)
    intact = record_index.build_index([str(shard(pattern, 0))])
    content = bytearray(shard(pattern, 0).read_bytes())
    content[intact.offset[record] + position] ^= 1 << bit
    shard(pattern, 0).write_bytes(content)
    index = record_index.build_index([str(shard(pattern, 0))])
    np.testing.assert_array_equal(index.offset, intact.offset)
    np.testing.assert_array_equal(index.length, intact.length)


def test_a_damaged_length_does_not_skip_valid_records(tmp_path):
    pattern = write_shards(tmp_path, [b"a" * 240] * 5, shards=1)  # 256 bytes with header and checksum
    content = bytearray(shard(pattern, 0).read_bytes())
    content[1] ^= 1  # 240 becomes 496, which would skip one record exactly
    shard(pattern, 0).write_bytes(content)
    index = record_index.load_index(pattern)
    assert index.offset.tolist() == [0, 256, 512, 768, 1024]


def test_the_next_header_is_found_across_search_blocks(tmp_path, monkeypatch):
    pattern = write_shards(tmp_path, [b"a" * 100, b"b" * 30], shards=1)
    content = bytearray(shard(pattern, 0).read_bytes())
    content[0] ^= 1
    shard(pattern, 0).write_bytes(content)
    for search_bytes in range(12, 130):
        monkeypatch.setattr(record_index, "_SEARCH_BYTES", search_bytes)
        assert record_index.build_index([str(shard(pattern, 0))]).offset.tolist() == [0, 116]


@pytest.mark.parametrize("content", [b"not a record" * 100, bytes(5000), b"\x1f\x8b\x08" + bytes(range(256)) * 20])
def test_a_file_without_a_valid_header_is_an_error(tmp_path, content):
    shard_file = tmp_path / "train-00000-of-00001"
    shard_file.write_bytes(content)
    with pytest.raises(UserError, match="has no valid TFRecord header"):
        record_index.load_index(str(shard_file))


def test_shards_without_records_are_an_error(tmp_path):
    with pytest.raises(UserError, match="contains no records"):
        record_index.load_index(write_shards(tmp_path, [], shards=2))


def test_an_index_that_cannot_be_stored_gives_a_warning(pattern, tmp_path, capsys, monkeypatch):
    def fail(temporary, path):
        raise OSError(28, "No space left on device")

    record_index.load_index(pattern)
    (tmp_path / "train.index.npz").unlink()
    monkeypatch.setattr(os, "replace", fail)
    assert len(record_index.load_index(pattern)) == 7
    printed = capsys.readouterr().err
    assert printed.startswith("warning: the index of 7 records cannot be stored")
    assert printed.count("\n") == 1
    assert not list(tmp_path.glob("train.index.npz*"))


@pytest.mark.parametrize("pattern", ["secret", "secret/train", "secret/train@2", "secret/*"])
def test_shards_that_the_file_system_refuses_are_an_error_with_one_line(pattern, tmp_path, monkeypatch):
    def refuse(path):
        raise tf.errors.PermissionDeniedError(None, None, f"{path}: Permission denied")

    for function in ("exists", "glob", "listdir"):
        monkeypatch.setattr(tf.io.gfile, function, refuse)
    monkeypatch.setattr(tf.io.gfile, "isdir", lambda path: path.endswith("secret"))
    with pytest.raises(UserError, match=r"^gs://bucket/secret.*: cannot be read \(.*Permission denied\)$"):
        records.find_shards(f"gs://bucket/{pattern}")


def test_an_index_that_the_file_system_refuses_is_an_error_with_one_line(tmp_path, monkeypatch):
    def refuse(path):
        raise tf.errors.PermissionDeniedError(None, None, "no access")

    pattern = write_shards(tmp_path, [example(0)], shards=1)
    record_index.load_index(pattern)
    monkeypatch.setattr(files, "open_binary", refuse)
    with pytest.raises(UserError, match=r"train\.index\.npz: cannot be read \(no access\)$"):
        record_index.load_index(pattern)
