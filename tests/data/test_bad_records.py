"""Bad records are skipped, replaced, counted and listed. Too many stop the run. No readable record is lost."""

import csv
import dataclasses
import itertools
import os

import jax
import numpy as np
import pytest
import tensorflow as tf
from helpers.small_records import NUM_CLASSES, example, jpeg, picture, write_shards

from dist_jax import config as settings
from dist_jax.data import encoded_clips, pipeline, record_index, records, sources
from dist_jax.data.bad_records import BadRecords, Problem
from dist_jax.errors import UserError
from dist_jax.evaluation import scoring


def example_with_damaged_images(record):
    images = [jpeg(picture(record, frame)) for frame in range(3)]
    images = [image[: len(image) - 60] for image in images]
    return records.make_example(images, 0, "class 0", f"{record}.mp4", 0, 1)


def make_config(pattern, limit=1.0, batch_size=5):
    config = settings.defaults()
    config.data.train = config.data.val = pattern
    config.data.max_bad_fraction = limit
    config.batch_size = config.eval.batch_size = batch_size
    config.mix.group_size, config.eval.num_views = 1, 1
    config.model.num_frames, config.model.alpha = 2, 1
    return config


def damage(index, record, byte=100):
    """Flips a bit of a record's data without changing the index."""
    with open(index.paths[index.shard[record]], "r+b") as file:
        file.seek(index.offset[record] + 12 + byte)
        value = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([value ^ 4]))


def train(config, steps, bad_records=None, rows=slice(None), start=0):
    source = sources.open_source(config.data, "train")
    return list(itertools.islice(pipeline.train_batches(config, source, start, rows, 8, bad_records), steps))


def requested_and_read(config, batches, size):
    requested = np.concatenate([pipeline.epoch_order(config.seed, epoch, size) for epoch in range(10)])
    read = np.concatenate([batch["record"] for batch in batches])
    return requested[: len(read)].tolist(), read.tolist()


def with_replacements(requested, bad, size):
    """Replaces each bad record by the next readable record in its epoch's order."""
    for position, record in enumerate(requested):
        first = position - position % size
        order = requested[first : first + size]
        place = position % size
        while record in bad:
            place = (place + 1) % size
            record = order[place]
        yield record


@pytest.fixture
def pattern(tmp_path):
    """20 records: 3 has a damaged image, 7 no frames, 11 is not an example, 4 and 5 have a wrong checksum."""
    examples = [example(record, frames=3) for record in range(20)]
    examples[3] = example_with_damaged_images(3)
    examples[7] = tf.train.SequenceExample().SerializeToString()
    examples[11] = b"not an example"
    pattern = write_shards(tmp_path, examples, shards=1)
    index = record_index.build_index(records.find_shards(pattern))
    damage(index, 4)
    damage(index, 5)
    return pattern


BAD = {3: "image", 4: "checksum", 5: "checksum", 7: "record", 11: "record"}


def test_the_next_readable_record_in_the_epochs_order_replaces_a_bad_record(pattern):
    config = make_config(pattern)
    requested, read = requested_and_read(config, train(config, 12), 20)
    assert read == list(with_replacements(requested, BAD, 20))
    assert set(read) == set(range(20)) - BAD.keys()


def test_replacements_do_not_depend_on_the_number_of_hosts_or_on_a_resume(pattern):
    config = make_config(pattern, batch_size=4)
    global_batches = train(config, 5)
    host_batches = [train(config, 2, rows=slice(2 * host, 2 * host + 2), start=3) for host in range(2)]
    for step in range(2):
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), *(batches[step] for batches in host_batches))
        jax.tree.map(np.testing.assert_array_equal, joined, global_batches[3 + step])


def test_bad_records_are_counted_by_kind_and_listed_once(pattern, tmp_path):
    bad_records = BadRecords("train", tmp_path / "run" / "bad_records.csv")
    train(make_config(pattern), 12, bad_records)  # 60 examples: each record three times
    assert bad_records.counts == {"image": 1, "checksum": 2, "record": 2}
    assert (bad_records.num_reads, bad_records.num_bad_reads) == (60, 15)
    rows = list(csv.DictReader(bad_records.path.read_text().splitlines()))
    assert {int(row["record"]): row["kind"] for row in rows} == BAD
    assert len(rows) == len(BAD)
    assert all("train-00000-of-00001 at byte" in row["location"] and row["message"] for row in rows)
    assert any("no frames" in row["message"] for row in rows)


def test_a_resumed_run_continues_the_list(pattern, tmp_path):
    path, config = tmp_path / "bad_records.csv", make_config(pattern)
    identity = sources.open_source(config.data, "train").identity
    for _ in range(2):
        bad_records = BadRecords("train", path, identity)
        train(config, 4, bad_records)
        assert bad_records.counts == {"image": 1, "checksum": 2, "record": 2}
        assert len(path.read_text().splitlines()) == 1 + len(BAD)
    assert BadRecords("val", path, identity).counts == {}


def test_bad_records_of_an_earlier_run_stay_listed_but_count_only_if_read_again(tmp_path):
    path = tmp_path / "bad_records.csv"
    bad_records = BadRecords("train", path, "the data")
    for record in range(5):
        bad_records.add(record, Problem("image", "here", ""))
    bad_records.check(0.5, 10)
    resumed = BadRecords("train", path, "the data")
    resumed.check(0.1, 10)
    assert resumed.counts == {} and 3 not in resumed
    resumed.add(3, Problem("image", "here", "again"))
    resumed.add(7, Problem("image", "here", ""))
    resumed.check(0.2, 10)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert sorted(row["record"] for row in rows) == ["0", "1", "2", "3", "4", "7"]


def test_a_list_of_different_data_or_of_an_older_format_is_dropped(tmp_path):
    path = tmp_path / "bad_records.csv"
    path.write_text("split,record,kind,where,message\ntrain,2,image,here,\n")
    for data in ("the data", "the repaired data"):
        bad_records = BadRecords("train", path, data)
        bad_records.add(3, Problem("image", "here", ""))
        bad_records.check(1.0, 10)
        (row,) = csv.DictReader(path.read_text().splitlines())
        assert (row["record"], row["data"]) == ("3", data)
    BadRecords("train", path, "the data repaired again").check(1.0, 10)
    assert not list(csv.DictReader(path.read_text().splitlines()))


def test_a_rewritten_shard_changes_the_identity_and_a_new_modification_time_does_not(pattern):
    before = sources.open_source(make_config(pattern).data, "train").identity
    (path,) = records.find_shards(pattern)
    index_file = f"{path.partition('-00000')[0]}.index.npz"
    os.utime(path, ns=(1, 1))
    tf.io.gfile.remove(index_file)
    assert sources.open_source(make_config(pattern).data, "train").identity == before
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(example(0))
    tf.io.gfile.remove(index_file)
    assert sources.open_source(make_config(pattern).data, "train").identity != before


def failing(source, record, error, num_failures):
    """A source in which the first `num_failures` reads of one record raise `error`."""
    remaining = [num_failures]

    def read(number):
        if number == record and remaining[0] > 0:
            remaining[0] -= 1
            raise error
        return source.read(number)

    return dataclasses.replace(source, read=read)


def test_a_record_that_can_be_read_on_retry_is_not_replaced(tmp_path):
    config = make_config(write_shards(tmp_path, [example(record) for record in range(8)], shards=1), batch_size=8)
    config.data.num_threads = 1
    source, bad_records = sources.open_source(config.data, "train"), BadRecords("train")
    flaky = failing(source, 3, OSError("the network is down"), 1)
    batch = next(pipeline.train_batches(config, flaky, 0, slice(None), 8, bad_records))
    expected = next(pipeline.train_batches(config, source, 0, slice(None), 8))
    jax.tree.map(np.testing.assert_array_equal, batch, expected)
    assert (bad_records.counts, bad_records.num_reads, bad_records.num_bad_reads) == ({}, 8, 0)


def test_a_shard_that_becomes_shorter_is_a_bad_checksum_at_first_and_later_reads(tmp_path):
    examples = [records.make_example([jpeg(picture(0, 0))] * 2, 0, "class 0", name, 0, 1) for name in ("a", "b")]
    config = make_config(write_shards(tmp_path, examples, shards=1), batch_size=2)
    index = record_index.load_index(config.data.train)
    for num_reads_before in (0, 1):
        write_shards(tmp_path, examples, shards=1)
        source, bad_records = sources.open_source(config.data, "train"), BadRecords("train")
        for _ in range(num_reads_before):
            source.read(1)
        os.truncate(index.paths[0], int(index.offset[1]) + 100)
        next(pipeline.train_batches(config, source, 0, slice(None), 8, bad_records))
        assert bad_records.kinds == {1: "checksum"}


def test_a_remote_shard_that_disappears_after_the_first_read_has_no_bad_images():
    images = [jpeg(picture(0, frame)) for frame in range(2)]
    path = "ram://disappears/train-00000-of-00001"
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(records.make_example(images, 0, "class 0", "a.mp4", 0, 1))
    source = encoded_clips.sequence_source(record_index.build_index([path]), {"label": records.LABEL}, {"label": 1})
    source.read(0)
    tf.io.gfile.remove(path)
    config, bad_records = make_config(path, batch_size=1), BadRecords("val")
    next(pipeline.eval_batches(config, source, slice(None), 8, bad_records))
    assert bad_records.kinds == {0: "record"}


def test_a_frame_that_is_no_image_is_a_bad_image_also_if_it_is_the_first(tmp_path):
    images = [jpeg(picture(0, frame)) for frame in range(2)]
    examples = [
        records.make_example(frames, 0, "class 0", "a.mp4", 0, 1)
        for frames in (images, [b"not an image", images[1]], [images[0], b"not an image"])
    ]
    bad_records = BadRecords("train")
    batch = train(make_config(write_shards(tmp_path, examples, shards=1), batch_size=3), 1, bad_records)[0]
    assert set(batch["record"]) == {0}
    assert bad_records.kinds == {1: "image", 2: "image"}


@pytest.mark.parametrize("error", [ValueError("odd"), TypeError(), RuntimeError("decoder")])
def test_any_python_exception_in_a_source_makes_a_bad_record(tmp_path, error):
    config = make_config(write_shards(tmp_path, [example(record) for record in range(8)], shards=1), batch_size=8)
    path, bad_records = tmp_path / "bad_records.csv", BadRecords("train", tmp_path / "bad_records.csv")
    source = failing(sources.open_source(config.data, "train"), 3, error, 100)
    batch = next(pipeline.train_batches(config, source, 0, slice(None), 8, bad_records))
    assert 3 not in batch["record"] and bad_records.counts == {"record": 1}
    assert f"{type(error).__name__}: {error}".strip() in path.read_text()


def test_two_splits_share_one_list(tmp_path):
    train_bad, val_bad = (BadRecords(split, tmp_path / "bad_records.csv") for split in ("train", "val"))
    train_bad.add(3, Problem("image", "here", "line 1, with a comma"))
    train_bad.check(1.0, 10)
    val_bad.add(3, Problem("checksum", "there", ""))
    val_bad.check(1.0, 10)
    train_bad.add(4, Problem("image", "here", ""))
    train_bad.check(1.0, 10)
    rows = list(csv.reader((tmp_path / "bad_records.csv").read_text().splitlines()))[1:]
    assert sorted(row[:3] for row in rows) == [
        ["train", "3", "image"],
        ["train", "4", "image"],
        ["val", "3", "checksum"],
    ]


def test_the_list_is_read_again_only_after_another_split_has_written_it(tmp_path, monkeypatch):
    train_bad, val_bad = (BadRecords(split, tmp_path / "bad_records.csv") for split in ("train", "val"))
    read, reads = BadRecords._read_rows, []
    monkeypatch.setattr(BadRecords, "_read_rows", lambda self: (reads.append(self.split), read(self))[1])
    for record, bad_records in enumerate([train_bad] * 5 + [val_bad] * 3 + [train_bad] * 2):
        bad_records.add(record, Problem("image", "here", ""))
        bad_records.check(1.0, 100)
    assert reads == ["train", "val", "train"]
    rows = list(csv.DictReader((tmp_path / "bad_records.csv").read_text().splitlines()))
    assert sorted(int(row["record"]) for row in rows) == list(range(10))


def test_the_run_stops_above_max_bad_fraction(pattern):
    assert len(train(make_config(pattern, limit=0.25), 12)) == 12  # 5 of 20 are bad
    with pytest.raises(UserError, match=r"5 of 20 records are unreadable .*2 x checksum.*max_bad_fraction=0\.2"):
        train(make_config(pattern, limit=0.2), 12)


def test_a_host_stops_on_a_high_share_of_bad_reads_though_it_reads_few_of_the_records():
    bad_records = BadRecords("train", num_reads=1000, num_bad_reads=50)
    with pytest.raises(UserError, match=r"max_bad_fraction=0\.01"):
        bad_records.check(0.01, num_records=1_000_000)
    BadRecords("train", num_reads=1000, num_bad_reads=20).check(0.01, num_records=1_000_000)


def test_a_set_without_readable_records_is_an_error(tmp_path):
    pattern = write_shards(tmp_path, [b"nothing"] * 4, shards=1)
    with pytest.raises(UserError, match="4 consecutive records are unreadable"):
        train(make_config(pattern), 1)


def test_evaluation_masks_a_bad_record_and_keeps_its_number(pattern):
    config = make_config(pattern)
    bad_records = BadRecords("val")
    batches = list(pipeline.eval_batches(config, sources.open_source(config.data, "val"), slice(None), 8, bad_records))
    record = np.concatenate([batch["record"] for batch in batches])
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert record.tolist() == list(range(20))
    assert {int(number) for number in record[mask == 0]} == BAD.keys()
    assert sum(bad_records.counts.values()) == 5


def test_a_label_outside_the_classes_stops_the_run_and_names_the_record(tmp_path):
    invalid = records.make_example([jpeg(picture(0, 0))], NUM_CLASSES, "?", "v.mp4", 0, 1)
    config = make_config(write_shards(tmp_path, [invalid], shards=1))
    with pytest.raises(
        UserError, match=rf"record 0 .*train-00000-of-00001.* has label {NUM_CLASSES}, .* 0 to {NUM_CLASSES - 1}"
    ):
        train(config, 1)


def test_a_record_without_the_configured_label_stops_the_run(tmp_path):
    config = make_config(write_shards(tmp_path, [example(0)], shards=1))
    config.data.label_key, config.data.class_names_file = "verb", str(tmp_path / "labels.txt")
    with pytest.raises(UserError, match=r"has no label 'verb' \(data\.label_key\)"):
        train(config, 1)


def evaluate_one(tmp_path, labels, **fields):
    """The labels of one evaluated record with these class numbers."""
    texts = [str(label) for label in labels]
    serialized = records.make_example([jpeg(picture(0, 0))], labels, texts, "v.mp4", 0, 1)
    config = make_config(write_shards(tmp_path, [serialized], shards=1))
    config.update_from_flattened_dict(fields)
    (batch,) = pipeline.eval_batches(config, sources.open_source(config.data, "val"), slice(0, 1), 8)
    assert batch.keys() == {"video", "labels", "mask", "record", "id"}
    return batch["labels"]["label"][0]


def test_records_without_labels_are_evaluated_if_the_setting_says_so(tmp_path):
    with pytest.raises(
        UserError, match=r"has no label 'label' .*; if the records have no labels: eval\.has_labels=False"
    ):
        evaluate_one(tmp_path / "a", [])
    assert evaluate_one(tmp_path / "b", [], **{"eval.has_labels": False}) == -1
    with pytest.raises(UserError, match=f"has label {NUM_CLASSES}, but the class numbers are 0 to"):
        evaluate_one(tmp_path / "c", [NUM_CLASSES], **{"eval.has_labels": False})


def test_with_multi_label_a_row_has_all_classes_of_the_record(tmp_path):
    labels = evaluate_one(tmp_path / "a", [3, 1], **{"data.multi_label": True})
    assert labels.dtype == bool
    assert labels.tolist() == [False, True, False, True, False]
    assert not evaluate_one(tmp_path / "b", [], **{"data.multi_label": True}).any()
    for number, labels in {NUM_CLASSES: [1, NUM_CLASSES, 0], -2: [-2, 3]}.items():
        with pytest.raises(UserError, match=f"has label {number}, but the class numbers are 0 to 4"):
            evaluate_one(tmp_path / str(number), labels, **{"data.multi_label": True})


def test_training_and_padding_rows_with_multi_label(tmp_path):
    images = [jpeg(picture(0, 0))]
    examples = [records.make_example(images, [0, 2], ["a", "c"], f"{n}.mp4", 0, 1) for n in range(4)]
    config = make_config(write_shards(tmp_path, examples, shards=1))
    config.data.multi_label = True
    config.augment.hflip_prob, config.augment.hflip_label_pairs = 1.0, (2, 4)
    (batch,) = train(config, 1)
    assert batch["labels"]["label"].tolist() == [[True, False, False, False, True]] * 5
    (batch,) = pipeline.eval_batches(config, sources.open_source(config.data, "val"), slice(None), 8)
    assert batch["labels"]["label"].tolist() == 4 * [[True, False, True, False, False]] + [[False] * 5]


@pytest.mark.slow
def test_no_readable_record_is_lost_among_a_thousand_damaged_ones(tmp_path):
    size, rng = 1500, np.random.default_rng(0)
    images = [jpeg(picture(0, frame, (8, 8))) for frame in range(2)]
    examples = [records.make_example(images, 0, "class 0", f"{record}.mp4", 0, 1) for record in range(size)]
    pattern = write_shards(tmp_path, examples, shards=4)
    index = record_index.load_index(pattern)
    bad = set(rng.choice(size, 1000, replace=False).tolist())
    for record in bad:
        damage(index, record, byte=int(rng.integers(-12, index.length[record] + 4)))  # framing and data
    for file in tmp_path.glob("*.npz"):
        file.unlink()  # the shards' modification times have changed
    damaged = record_index.load_index(pattern)  # consecutive bad records may count as one
    readable = {(index.shard[record], index.offset[record]) for record in set(range(size)) - bad}
    locations = list(zip(damaged.shard, damaged.offset, strict=True))
    bad = {record for record, location in enumerate(locations) if location not in readable}
    assert len(locations) - len(bad) == len(readable) == 500
    config = make_config(pattern, batch_size=len(locations) // 10 + 1)
    batches = train(config, 10)
    requested, read = requested_and_read(config, batches, len(locations))
    assert read == list(with_replacements(requested, bad, len(locations)))
    assert {locations[record] for record in read} == readable
    assert len({name for batch in batches for name in batch["id"]}) == 500


def test_a_record_with_a_damaged_header_is_listed(tmp_path):
    pattern = write_shards(tmp_path, [example(record) for record in range(4)], shards=1)
    damage(record_index.build_index(records.find_shards(pattern)), 2, byte=-12)
    bad_records = BadRecords("val")
    config = make_config(pattern)
    batch = next(pipeline.eval_batches(config, sources.open_source(config.data, "val"), slice(None), 8, bad_records))
    assert batch["mask"].tolist() == [1, 1, 0, 1, 0]
    assert bad_records.counts == {"checksum": 1}


def test_evaluation_counts_unreadable_records_by_kind(pattern):
    config, bad_records = make_config(pattern), BadRecords("val")
    batches = list(pipeline.eval_batches(config, sources.open_source(config.data, "val"), slice(None), 8, bad_records))
    logits = {"model": {"label": np.eye(NUM_CLASSES, dtype=np.float32)[:, None]}}  # [B, V, K]
    gathered = scoring.gather([(batch, logits) for batch in batches], bad_records, True)
    assert gathered.logits["model"]["label"].shape == (15, 1, NUM_CLASSES)
    assert len(gathered.labels["label"]) == len(gathered.ids) == 15
    assert gathered.bad == {"image": 1, "checksum": 2, "record": 2}
