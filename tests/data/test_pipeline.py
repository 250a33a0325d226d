"""Batches: examples, order and pixels, from any step and on any number of hosts; prefetching."""

import dataclasses
import inspect
import itertools
import threading
import time

import jax
import numpy as np
import pytest
from helpers.small_records import NUM_CLASSES, SIZE, example, jpeg, picture, stored_pixels, write_shards
from helpers.video_files import numbers, write_video

from dist_jax import config as settings
from dist_jax.data import pipeline, records, sources
from dist_jax.data.bad_records import BadRecords
from dist_jax.data.prefetch import Prefetcher
from dist_jax.errors import UserError

RECORDS = 10
ORDER = [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]  # example of each record: written round robin to 3 shards, read shard by shard


def make_config(pattern, **changes):
    config = settings.defaults()
    config.data.train = config.data.val = pattern
    config.data.num_threads = 2
    config.batch_size, config.eval.batch_size = 4, 4
    config.mix.group_size = 1
    config.model.num_frames, config.model.alpha = 4, 2
    for name, value in changes.items():
        config.update_from_flattened_dict({name.replace("__", "."): value})
    return config


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("records"), [example(record) for record in range(RECORDS)])


@pytest.fixture
def config(pattern):
    return make_config(pattern)


def train(config, steps, start=0, rows=slice(None), resolution=16):
    source = sources.open_source(config.data, "train")
    return list(itertools.islice(pipeline.train_batches(config, source, start, rows, resolution), steps))


def evaluate(config, rows=slice(None), resolution=16):
    source = sources.open_source(config.data, "val")
    return list(pipeline.eval_batches(config, source, rows, resolution))


def join(batches):
    return jax.tree.map(lambda *parts: np.concatenate(parts), *batches)


def concatenate(batches, name):
    joined = join(batches)
    return joined["labels"][name] if name == "label" else joined[name]


def assert_equal(batches, expected_batches):
    for batch, expected in zip(batches, expected_batches, strict=True):
        assert batch.keys() == expected.keys()
        jax.tree.map(np.testing.assert_array_equal, batch, expected)


def test_a_training_batch_has_the_documented_shapes_and_dtypes(config):
    batch = train(config, 1)[0]
    assert batch["video"].shape == (4, 4, 16, 16, 3)
    assert batch["video"].dtype == np.uint8
    assert (batch["labels"]["label"].dtype, batch["mask"].dtype, batch["record"].dtype) == (
        np.int32,
        np.float32,
        np.int64,
    )
    np.testing.assert_array_equal(batch["mask"], 1)
    names = {int(record): name for record, name in zip(batch["record"], batch["id"], strict=True)}
    assert all(name == b"%d.mp4" % ORDER[record] for record, name in names.items())
    assert [ORDER[record] % NUM_CLASSES for record in batch["record"]] == batch["labels"]["label"].tolist()


def test_every_epoch_is_a_new_permutation_and_batches_cross_epochs(config):
    records = concatenate(train(config, 5), "record")  # 20 examples: 2 epochs of 10 records, in batches of 4
    assert sorted(records[:10]) == sorted(records[10:]) == list(range(RECORDS))
    assert records[:10].tolist() != records[10:].tolist()
    expected = np.concatenate([pipeline.epoch_order(config.seed, epoch, RECORDS) for epoch in (0, 1)])
    np.testing.assert_array_equal(records, expected)


def test_a_batch_larger_than_the_data_holds_several_epochs(pattern):
    records = concatenate(train(make_config(pattern, batch_size=25), 1), "record")
    assert sorted(records[:20]) == sorted([*range(RECORDS)] * 2)


def test_the_seed_changes_the_order(pattern, config):
    first, second = train(config, 3), train(make_config(pattern, seed=1), 3)
    assert concatenate(first, "record").tolist() != concatenate(second, "record").tolist()


def test_a_record_is_augmented_differently_in_the_next_epoch(config):
    batches = train(config, 5)
    records, videos = concatenate(batches, "record"), concatenate(batches, "video")
    first, second = np.flatnonzero(records == 3)
    assert not np.array_equal(videos[first], videos[second])


@pytest.mark.parametrize("start", [1, 4])
def test_the_sequence_can_start_at_any_step(config, start):
    assert_equal(train(config, 6 - start, start=start), train(config, 6)[start:])


@pytest.mark.slow
@pytest.mark.parametrize("num_hosts", [2, 4])
def test_a_resumed_run_on_several_hosts_reads_the_same_global_batches(config, num_hosts):
    global_batches = train(config, 4)
    num_rows = config.batch_size // num_hosts
    hosts = [train(config, 2, start=2, rows=slice(host * num_rows, (host + 1) * num_rows)) for host in range(num_hosts)]
    for step in range(2):
        joined = join([batches[step] for batches in hosts])
        assert_equal([joined], [global_batches[2 + step]])


def test_rows_may_be_any_selection_of_rows(config):
    rows = np.array([3, 0])
    expected = jax.tree.map(lambda array: array[rows], train(config, 1)[0])
    assert_equal(train(config, 1, rows=rows), [expected])


def test_batches_do_not_depend_on_the_number_of_threads(pattern):
    assert_equal(
        train(make_config(pattern, data__num_threads=1), 4), train(make_config(pattern, data__num_threads=7), 4)
    )


def test_without_augmentation_a_clip_has_the_stored_frames(pattern):
    config = make_config(
        pattern, augment__hflip_prob=0.0, augment__crop_scale=(1.0, 1.0), augment__crop_ratio=(4 / 3, 4 / 3)
    )
    config.model.num_frames = 6
    batch = train(config, 1, resolution=24)[0]
    for record, video in zip(batch["record"], batch["video"], strict=True):
        red = 8 * ORDER[record]
        assert np.abs(video[..., 0].astype(int) - red).max() <= 6  # JPEG error of a constant plane
        greens = video[..., 1].mean((1, 2)) / 12
        assert np.all(np.diff(greens) > -0.5)
        assert np.all((greens > -1) & (greens < 6))


@pytest.mark.parametrize(("batch_size", "num_batches"), [(1, 10), (3, 4), (4, 3), (10, 1), (16, 1)])
def test_evaluation_reads_every_record_once_and_pads(pattern, batch_size, num_batches):
    batches = evaluate(make_config(pattern, eval__batch_size=batch_size))
    assert len(batches) == num_batches
    records, mask = concatenate(batches, "record"), concatenate(batches, "mask")
    assert records[mask == 1].tolist() == list(range(RECORDS))
    assert set(records[mask == 0]) <= {-1}
    assert len(records) == num_batches * batch_size
    assert not concatenate(batches, "video")[mask == 0].any()


def test_hosts_split_the_evaluation_batches(config):
    hosts = [evaluate(config, rows=slice(2 * host, 2 * host + 2)) for host in range(2)]
    for step, batch in enumerate(evaluate(config)):
        joined = join([batches[step] for batches in hosts])
        assert_equal([joined], [batch])


def test_the_crops_of_a_view_are_adjacent(pattern):
    config = make_config(pattern, eval__num_views=2, eval__num_crops=3)
    config.model.num_frames = 2
    batch = evaluate(config, resolution=24)[0]
    assert batch["video"].shape == (4, 6, 2, 24, 24, 3)
    # 6 frames, 2 segments of 3: view 0 takes 1.5 -> 2 and 4.5 -> 4, view 1 takes 3 and 6 -> 5 (clamped).
    for view, frames in enumerate([(2, 4), (3, 5)]):
        for crop, left in enumerate([0, 4, 8]):  # of 32 columns; the short side is 24, so no scaling
            for time_step, number in enumerate(frames):
                stored = stored_pixels(0, number)
                frame = batch["video"][0, 3 * view + crop, time_step]
                np.testing.assert_array_equal(frame, stored[:, left : left + 24])


def test_dense_sampling_takes_consecutive_frames_from_the_middle(pattern):
    config = make_config(pattern, data__sampling="dense", data__stride=1, eval__num_views=1)
    config.model.num_frames = 2
    video = evaluate(config, resolution=24)[0]["video"][0, 0]
    for time_step, frame in enumerate([2, 3]):  # the middle of 6 - 2 = 4 starts
        stored = stored_pixels(0, frame)
        np.testing.assert_array_equal(video[time_step], stored[:, (SIZE[1] - 24) // 2 :][:, :24])


def test_a_record_shorter_than_the_clip_repeats_frames(tmp_path):
    config = make_config(write_shards(tmp_path, [example(0, frames=1)], shards=1))
    assert train(config, 1)[0]["video"].shape == (4, 4, 16, 16, 3)
    video = evaluate(config)[0]["video"][0]
    assert np.all(video == video[:1, :1])


def test_a_flip_swaps_the_labels_of_the_pairs(pattern):
    config = make_config(pattern, augment__hflip_prob=1.0, augment__hflip_label_pairs=(0, 1))
    for batch in train(config, 3):
        stored = [ORDER[record] % NUM_CLASSES for record in batch["record"]]
        assert batch["labels"]["label"].tolist() == [{0: 1, 1: 0}.get(label, label) for label in stored]


def test_flip_pairs_of_two_labels_are_an_error(tmp_path):
    serialized = records.make_example([jpeg(picture(0, 0))], None, None, "v", 0, 1, verb=2, noun=4)
    names = str(tmp_path / "labels.txt")
    pattern = write_shards(tmp_path, [serialized], shards=1)
    config = make_config(pattern, data__label_key="verb,noun", data__class_names_file=f"{names},{names}")
    (batch,) = train(config, 1)
    assert {name: labels.tolist() for name, labels in batch["labels"].items()} == {"verb": [2] * 4, "noun": [4] * 4}
    config.augment.hflip_label_pairs = (0, 1)
    with pytest.raises(UserError, match=r"augment\.hflip_label_pairs=\(0, 1\) needs a single label"):
        train(config, 1)


@pytest.mark.slow
def test_rand_augment_and_erasing_can_be_switched_on(pattern, config):
    plain = train(config, 1)[0]["video"]
    for changes in ({"augment__rand_augment": (2, 9.0)}, {"augment__erase_prob": 1.0}):
        changed = train(make_config(pattern, **changes), 1)[0]["video"]
        assert changed.shape == plain.shape
        assert not np.array_equal(changed, plain)


def test_a_list_of_videos_goes_through_the_same_pipeline(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", frames=12, width=32, height=24)
    (tmp_path / "train.txt").write_text("0.mp4 jump\n1.mp4 run\n2.mp4 jump\n")
    config = make_config(str(tmp_path / "train.txt"), data__source="videos", data__max_bad_fraction=0.5)
    batches = evaluate(config, resolution=24)
    assert concatenate(batches, "label")[:3].tolist() == [0, 1, 0]
    # 12 frames, 4 segments of 3: view 0 takes frame 1 of each, view 2 the end of each; 12 is clamped to 11.
    assert numbers(batches[0]["video"][1, 0]) == [1, 4, 7, 10]
    assert numbers(batches[0]["video"][1, 2]) == [3, 6, 9, 11]
    (tmp_path / "1.mp4").write_bytes(b"not a video")
    bad_records = BadRecords("train")
    source = sources.open_source(config.data, "train")
    batch = next(pipeline.train_batches(config, source, 0, slice(None), 16, bad_records))
    assert set(batch["record"]) == {0, 2}
    assert bad_records.counts == {"record": 1}


def test_dropped_batches_and_kept_batches_have_the_same_pixels(config):
    # Dropped batches give their memory back while their transfer may still be in progress.
    source = sources.open_source(config.data, "train")
    kept = [int(batch["video"].sum(dtype=np.int64)) for batch in train(config, 30)]
    sums = jax.jit(lambda video: video.astype(np.int32).sum())
    with Prefetcher(pipeline.train_batches(config, source, 0, slice(None), 16), put_video, 2) as batches:
        assert [int(sums(video)) for video in itertools.islice(batches, 30)] == kept


def put_video(batch):
    sharding = jax.sharding.NamedSharding(jax.make_mesh((2,), ("data",)), jax.sharding.PartitionSpec("data"))
    return jax.make_array_from_process_local_data(sharding, batch["video"])


def input_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("input")]


def test_the_threads_end_when_the_batches_are_closed_or_fail(config):
    source = sources.open_source(config.data, "train")
    batches = pipeline.train_batches(config, source, 0, slice(None), 16)
    next(batches)
    assert len(input_threads()) == config.data.num_threads
    batches.close()
    assert not input_threads()
    failing = pipeline.train_batches(config, unreadable(source), 0, slice(None), 16)
    with pytest.raises(UserError, match="records are unreadable"):
        next(failing)
    assert not input_threads()


def unreadable(source):
    def read(record):
        raise ValueError("no disk")

    return dataclasses.replace(source, read=read)


def test_all_threads_work_also_if_a_batch_has_a_single_row(pattern):
    config = make_config(pattern, batch_size=1, data__num_threads=4)
    source = sources.open_source(config.data, "train")
    all_reading = threading.Barrier(4, timeout=60)  # breaks unless four threads read at the same time
    first_reads = iter(range(4))

    def read(record):
        if next(first_reads, None) is not None:
            all_reading.wait()
        return source.read(record)

    batch = next(pipeline.train_batches(config, dataclasses.replace(source, read=read), 0, slice(None), 16))
    assert batch["mask"].tolist() == [1]
    assert not all_reading.broken


def test_prefetching_keeps_the_order_and_measures_the_wait():
    def batches():
        for number in range(5):
            time.sleep(0.01)
            yield {"number": number}

    with Prefetcher(batches(), lambda batch: batch["number"] * 10, 2) as prefetched:
        assert list(prefetched) == [0, 10, 20, 30, 40]
        assert prefetched.waited > 0
        assert list(prefetched) == []


def test_prefetching_raises_an_error_of_the_reader_after_the_earlier_batches():
    def batches():
        yield {"number": 1}
        raise UserError("the disk has failed")

    with Prefetcher(batches(), lambda batch: batch["number"], 2) as prefetched:
        assert next(prefetched) == 1
        with pytest.raises(UserError, match="the disk has failed"):
            next(prefetched)


def test_closing_stops_the_thread_and_the_generator():
    before = set(threading.enumerate())
    batches = ({"number": number} for number in itertools.count())
    prefetched = Prefetcher(batches, lambda batch: batch, 3)
    next(prefetched)
    prefetched.close()
    prefetched.close()
    assert not set(threading.enumerate()) - before
    assert inspect.getgeneratorstate(batches) == inspect.GEN_CLOSED


def test_prefetching_keeps_at_most_its_size_on_the_devices_and_reads_one_more():
    read, put = [], []

    def batches():
        for number in itertools.count():
            read.append(number)
            yield {"number": number}

    def put_batch(batch):
        put.append(batch["number"])
        return batch["number"]

    with Prefetcher(batches(), put_batch, 2) as prefetched:
        assert [next(prefetched) for _ in range(3)] == [0, 1, 2]
        while len(read) < 3 + 2 + 1:
            time.sleep(0.001)
        assert put == [0, 1, 2, 3, 4]  # three returned, two on the devices; the reader waits with the next one
        time.sleep(0.05)
        assert (len(put), len(read)) == (5, 6)
