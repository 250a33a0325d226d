"""Bad records: skipped, replaced, counted, listed; too many stop the run; none takes a sound one with it."""

import csv
import dataclasses
import itertools
import os

import numpy as np
import pytest
import tensorflow as tf
from helpers.small_records import CLASSES, example, jpeg, picture, write_shards

from dist_jax import config as settings
from dist_jax.data import pipeline, record_index, records, sources
from dist_jax.data.bad_records import BadRecords
from dist_jax.errors import UserError
from dist_jax.evaluation import evaluate


def broken_image(record):
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
    """Turns a bit of a record's data, leaving the index to believe in it."""
    with open(index.paths[index.shard[record]], "r+b") as file:
        file.seek(index.offset[record] + 12 + byte)
        value = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([value ^ 4]))


def train(config, steps, faults=None, rows=slice(None), start=0):
    source = sources.open_source(config.data, "train")
    return list(itertools.islice(pipeline.train_batches(config, source, start, rows, 8, faults), steps))


def wanted_and_given(config, batches, size):
    wanted = np.concatenate([pipeline.epoch_order(config.seed, epoch, size) for epoch in range(10)])
    given = np.concatenate([batch["record"] for batch in batches])
    return wanted[: len(given)].tolist(), given.tolist()


def replaced(wanted, bad, size):
    """What takes the place of each wanted record, by the rule: the next sound one in that epoch's order."""
    for position, record in enumerate(wanted):
        first = position - position % size
        order = wanted[first : first + size]
        place = position % size
        while record in bad:
            place = (place + 1) % size
            record = order[place]
        yield record


@pytest.fixture
def spoilt(tmp_path):
    """Twenty records: 3 has a broken image, 7 no frames, 11 is no example, 4 and 5 have a wrong checksum."""
    examples = [example(record, frames=3) for record in range(20)]
    examples[3] = broken_image(3)
    examples[7] = tf.train.SequenceExample().SerializeToString()
    examples[11] = b"this is no example"
    pattern = write_shards(tmp_path, examples, shards=1)
    index = record_index.build_index(records.find_shards(pattern))
    damage(index, 4)
    damage(index, 5)
    return pattern


BAD = {3: "image", 4: "checksum", 5: "checksum", 7: "record", 11: "record"}


def test_a_bad_record_is_replaced_by_the_next_sound_one_of_its_epoch(spoilt):
    config = make_config(spoilt)
    wanted, given = wanted_and_given(config, train(config, 12), 20)
    assert given == list(replaced(wanted, BAD, 20))
    assert set(given) == set(range(20)) - BAD.keys()


def test_the_replacement_is_the_same_on_every_number_of_hosts_and_after_a_resume(spoilt):
    config = make_config(spoilt, batch_size=4)
    whole = train(config, 5)
    parts = [train(config, 2, rows=slice(2 * host, 2 * host + 2), start=3) for host in range(2)]
    for step in range(2):
        for name in ("record", "video", "label"):
            together = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(together, whole[3 + step][name])


def test_bad_records_are_counted_by_kind_and_listed_once(spoilt, tmp_path):
    faults = BadRecords("train", tmp_path / "run" / "bad_records.csv")
    train(make_config(spoilt), 12, faults)  # 60 examples: every record three times
    assert faults.counts == {"image": 1, "checksum": 2, "record": 2}
    assert (faults.reads, faults.bad_reads) == (60, 15)
    rows = list(csv.DictReader(faults.path.read_text().splitlines()))
    assert {int(row["record"]): row["kind"] for row in rows} == BAD
    assert len(rows) == len(BAD)
    assert all("train-00000-of-00001 at byte" in row["where"] and row["message"] for row in rows)
    assert any("no frames" in row["message"] for row in rows)


def test_a_resumed_run_goes_on_with_the_list(spoilt, tmp_path):
    path, config = tmp_path / "bad_records.csv", make_config(spoilt)
    identity = sources.open_source(config.data, "train").identity
    for _ in range(2):
        faults = BadRecords("train", path, identity)
        train(config, 4, faults)
        assert faults.counts == {"image": 1, "checksum": 2, "record": 2}
        assert len(path.read_text().splitlines()) == 1 + len(BAD)
    assert BadRecords("val", path, identity).counts == {}


def test_what_an_earlier_run_met_counts_only_if_it_is_met_again(tmp_path):
    path = tmp_path / "bad_records.csv"
    faults = BadRecords("train", path, "the data")
    for record in range(5):
        faults.add(record, "image", "here", "")
    faults.settle(0.5, 10)
    resumed = BadRecords("train", path, "the data")
    resumed.settle(0.1, 10)
    assert resumed.counts == {} and not resumed.knows(3)
    resumed.add(3, "image", "here", "again")
    resumed.add(7, "image", "here", "")
    resumed.settle(0.2, 10)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert sorted(row["record"] for row in rows) == ["0", "1", "2", "3", "4", "7"]


def test_a_list_of_other_data_or_of_an_older_form_is_dropped(tmp_path):
    path = tmp_path / "bad_records.csv"
    path.write_text("split,record,kind,where,message\ntrain,2,image,here,\n")
    for data in ("the data", "the data mended"):
        faults = BadRecords("train", path, data)
        faults.add(3, "image", "here", "")
        faults.settle(1.0, 10)
        (row,) = csv.DictReader(path.read_text().splitlines())
        assert (row["record"], row["data"]) == ("3", data)
    BadRecords("train", path, "the data mended again").settle(1.0, 10)
    assert not list(csv.DictReader(path.read_text().splitlines()))


def test_a_shard_made_anew_is_other_data(spoilt):
    before = sources.open_source(make_config(spoilt).data, "train").identity
    (path,) = records.find_shards(spoilt)
    assert sources.open_source(make_config(spoilt).data, "train").identity == before
    os.utime(path, ns=(1, 1))
    tf.io.gfile.remove(f"{path.partition('-00000')[0]}.index.npz")
    assert sources.open_source(make_config(spoilt).data, "train").identity != before


def faltering(source, record, error, times):
    """The source, whose `read` of one record fails so many times in Python."""
    left = [times]

    def check(number):
        if number == record and left[0] > 0:
            left[0] -= 1
            raise error
        return np.True_

    def read(number):
        with tf.control_dependencies([tf.numpy_function(check, [number], tf.bool)]):
            return source.read(tf.identity(number))

    return dataclasses.replace(source, read=read)


def test_a_record_that_is_read_at_the_second_try_keeps_its_place(tmp_path):
    config = make_config(write_shards(tmp_path, [example(record) for record in range(8)], shards=1), batch_size=8)
    config.data.num_threads = 1
    source, faults = sources.open_source(config.data, "train"), BadRecords("train")
    flaky = faltering(source, 3, OSError("the network is away"), 1)
    batch = next(pipeline.train_batches(config, flaky, 0, slice(None), 8, faults))
    expected = next(pipeline.train_batches(config, source, 0, slice(None), 8))
    for name in expected:
        np.testing.assert_array_equal(batch[name], expected[name])
    assert (faults.counts, faults.reads, faults.bad_reads) == ({}, 8, 0)


@pytest.mark.parametrize("error", [ValueError("odd"), TypeError(), RuntimeError("decoder")])
def test_whatever_python_raises_makes_a_bad_record(tmp_path, error):
    config = make_config(write_shards(tmp_path, [example(record) for record in range(8)], shards=1), batch_size=8)
    path, faults = tmp_path / "bad_records.csv", BadRecords("train", tmp_path / "bad_records.csv")
    source = faltering(sources.open_source(config.data, "train"), 3, error, 100)
    batch = next(pipeline.train_batches(config, source, 0, slice(None), 8, faults))
    assert 3 not in batch["record"] and faults.counts == {"record": 1}
    assert f"{type(error).__name__}: {error}".strip() in path.read_text()


def test_two_splits_share_a_list(tmp_path):
    train_faults, val_faults = (BadRecords(split, tmp_path / "bad_records.csv") for split in ("train", "val"))
    train_faults.add(3, "image", "here", "line 1, with a comma")
    train_faults.settle(1.0, 10)
    val_faults.add(3, "checksum", "there", "")
    val_faults.settle(1.0, 10)
    train_faults.add(4, "image", "here", "")
    train_faults.settle(1.0, 10)
    rows = list(csv.reader((tmp_path / "bad_records.csv").read_text().splitlines()))[1:]
    assert sorted(row[:3] for row in rows) == [
        ["train", "3", "image"],
        ["train", "4", "image"],
        ["val", "3", "checksum"],
    ]


def test_above_the_limit_the_run_stops(spoilt):
    assert len(train(make_config(spoilt, limit=0.25), 12)) == 12  # 5 of 20 are bad
    with pytest.raises(UserError, match=r"5 of 20 records .* bad \(.*2 x checksum.*max_bad_fraction=0\.2"):
        train(make_config(spoilt, limit=0.2), 12)


def test_many_hosts_notice_what_each_meets_only_in_part():
    faults = BadRecords("train", reads=1000, bad_reads=50)
    with pytest.raises(UserError, match=r"max_bad_fraction=0\.01"):
        faults.settle(0.01, size=1_000_000)
    BadRecords("train", reads=1000, bad_reads=20).settle(0.01, size=1_000_000)


def test_a_set_of_bad_records_alone_is_an_error(tmp_path):
    pattern = write_shards(tmp_path, [b"nothing"] * 4, shards=1)
    with pytest.raises(UserError, match="4 records in a row are bad"):
        train(make_config(pattern), 1)


def test_evaluation_masks_a_bad_record_and_keeps_its_number(spoilt):
    config = make_config(spoilt)
    faults = BadRecords("val")
    batches = list(pipeline.eval_batches(config, sources.open_source(config.data, "val"), slice(None), 8, faults))
    record = np.concatenate([batch["record"] for batch in batches])
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert record.tolist() == list(range(20))
    assert {int(number) for number in record[mask == 0]} == BAD.keys()
    assert sum(faults.counts.values()) == 5


def test_a_label_outside_of_the_classes_stops_the_run_and_names_the_record(tmp_path):
    wrong = records.make_example([jpeg(picture(0, 0))], CLASSES, "?", "v.mp4", 0, 1)
    config = make_config(write_shards(tmp_path, [wrong], shards=1))
    with pytest.raises(
        UserError, match=rf"record 0 .*train-00000-of-00001.* has label {CLASSES}, .* 0 to {CLASSES - 1}"
    ):
        train(config, 1)


def test_a_record_without_the_wanted_label_stops_the_run(tmp_path):
    config = make_config(write_shards(tmp_path, [example(0)], shards=1))
    config.data.label_key = "verb"
    with pytest.raises(UserError, match=r"has no label of the kind data\.label"):
        train(config, 1)


def test_a_thousand_damaged_records_lose_none_of_the_sound_ones(tmp_path):
    size, rng = 1500, np.random.default_rng(0)
    images = [jpeg(picture(0, frame, (8, 8))) for frame in range(2)]
    written = [records.make_example(images, 0, "class 0", f"{record}.mp4", 0, 1) for record in range(size)]
    pattern = write_shards(tmp_path, written, shards=4)
    index = record_index.load_index(pattern)
    bad = set(rng.choice(size, 1000, replace=False).tolist())
    for record in bad:
        damage(index, record, byte=int(rng.integers(-12, index.length[record] + 4)))  # framing and data
    for file in tmp_path.glob("*.npz"):
        file.unlink()  # the damage changed the shards' times
    damaged = record_index.load_index(pattern)  # several bad records in a row may count as one
    sound = {(index.shard[record], index.offset[record]) for record in set(range(size)) - bad}
    places = list(zip(damaged.shard, damaged.offset, strict=True))
    bad = {record for record, place in enumerate(places) if place not in sound}
    assert len(places) - len(bad) == len(sound) == 500
    config = make_config(pattern, batch_size=len(places) // 10 + 1)
    batches = train(config, 10)
    wanted, given = wanted_and_given(config, batches, len(places))
    assert given == list(replaced(wanted, bad, len(places)))
    assert {places[record] for record in given} == sound
    assert len({name for batch in batches for name in batch["id"]}) == 500


def test_a_record_with_a_damaged_header_is_listed(tmp_path):
    pattern = write_shards(tmp_path, [example(record) for record in range(4)], shards=1)
    damage(record_index.build_index(records.find_shards(pattern)), 2, byte=-12)
    faults = BadRecords("val")
    config = make_config(pattern)
    batch = next(pipeline.eval_batches(config, sources.open_source(config.data, "val"), slice(None), 8, faults))
    assert batch["mask"].tolist() == [1, 1, 0, 1, 0]
    assert faults.counts == {"checksum": 1}


def test_an_evaluation_counts_what_could_not_be_read_by_kind(spoilt):
    config, faults = make_config(spoilt), BadRecords("val")
    batches = list(pipeline.eval_batches(config, sources.open_source(config.data, "val"), slice(None), 8, faults))
    scores = np.eye(CLASSES, dtype=np.float32)
    found = evaluate._gather([(batch, scores) for batch in batches], slice(None), faults)
    assert len(found.labels) == 15
    assert found.bad == {"image": 1, "checksum": 2, "record": 2}
