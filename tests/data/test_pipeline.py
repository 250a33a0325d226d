"""Batches: which examples, in which order, with which pixels, from any step and on any number of hosts."""

import inspect
import itertools
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from helpers.small_records import NUM_CLASSES, SIZE, example, picture, write_shards
from helpers.video_files import numbers, write_video

from dist_jax import config as settings
from dist_jax.data import pipeline, sources
from dist_jax.data.bad_records import BadRecords
from dist_jax.data.prefetch import Prefetcher
from dist_jax.errors import UserError

RECORDS = 10


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


def joined(batches, name):
    return np.concatenate([batch[name] for batch in batches])


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def test_a_training_batch_has_the_promised_entries(config):
    batch = train(config, 1)[0]
    assert batch["video"].shape == (4, 4, 16, 16, 3)
    assert batch["video"].dtype == np.uint8
    assert (batch["label"].dtype, batch["mask"].dtype, batch["record"].dtype) == (np.int32, np.float32, np.int64)
    np.testing.assert_array_equal(batch["mask"], 1)
    names = {int(record): name for record, name in zip(batch["record"], batch["id"], strict=True)}
    order = [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]  # shard by shard, examples having been written round robin
    assert all(name == b"%d.mp4" % order[record] for record, name in names.items())
    assert [order[record] % NUM_CLASSES for record in batch["record"]] == batch["label"].tolist()


def test_every_epoch_is_another_permutation_of_all_records_and_batches_cross_its_border(config):
    records = joined(train(config, 5), "record")  # 20 examples: two epochs of ten, in batches of four
    assert sorted(records[:10]) == sorted(records[10:]) == list(range(RECORDS))
    assert records[:10].tolist() != records[10:].tolist()
    expected = np.concatenate([pipeline.epoch_order(config.seed, epoch, RECORDS) for epoch in (0, 1)])
    np.testing.assert_array_equal(records, expected)


def test_a_batch_larger_than_the_data_holds_several_epochs(pattern):
    records = joined(train(make_config(pattern, batch_size=25), 1), "record")
    assert sorted(records[:20]) == sorted([*range(RECORDS)] * 2)


def test_another_seed_gives_another_order_and_other_pixels(pattern, config):
    one, other = train(config, 3), train(make_config(pattern, seed=1), 3)
    assert joined(one, "record").tolist() != joined(other, "record").tolist()


def test_a_record_looks_different_in_the_next_epoch(config):
    batches = train(config, 5)
    records, videos = joined(batches, "record"), joined(batches, "video")
    first, second = np.flatnonzero(records == 3)
    assert not np.array_equal(videos[first], videos[second])


@pytest.mark.parametrize("start", [1, 4])
def test_from_any_step_the_sequence_goes_on(config, start):
    assert_same(train(config, 6)[start:], train(config, 6 - start, start=start))


@pytest.mark.parametrize("hosts", [2, 4])
def test_any_number_of_hosts_gives_the_same_global_sequence_after_a_resume(config, hosts):
    whole = train(config, 4)
    share = config.batch_size // hosts
    parts = [train(config, 2, start=2, rows=slice(host * share, (host + 1) * share)) for host in range(hosts)]
    for step in range(2):
        together = {name: np.concatenate([part[step][name] for part in parts]) for name in whole[0]}
        assert_same([whole[2 + step]], [together])


def test_rows_may_be_any_rows(config):
    rows = np.array([3, 0])
    assert_same([{n: a[rows] for n, a in train(config, 1)[0].items()}], train(config, 1, rows=rows))


def test_the_number_of_threads_changes_nothing(pattern):
    assert_same(
        train(make_config(pattern, data__num_threads=1), 4), train(make_config(pattern, data__num_threads=7), 4)
    )


def test_without_augmentation_a_clip_is_the_stored_frames(pattern):
    config = make_config(
        pattern, augment__hflip_prob=0.0, augment__crop_scale=(1.0, 1.0), augment__crop_ratio=(4 / 3, 4 / 3)
    )
    config.model.num_frames = 6
    batch = train(config, 1, resolution=24)[0]
    order = [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]
    for record, video in zip(batch["record"], batch["video"], strict=True):
        reds = 8 * order[record]
        assert np.abs(video[..., 0].astype(int) - reds).max() <= 6  # what JPEG leaves of a constant plane
        greens = video[..., 1].mean((1, 2)) / 12
        assert np.all(np.diff(greens) > -0.5)
        assert np.all((greens > -1) & (greens < 6))


@pytest.mark.parametrize(("size", "steps"), [(1, 10), (3, 4), (4, 3), (10, 1), (16, 1)])
def test_evaluation_takes_every_record_once_and_pads(pattern, size, steps):
    batches = evaluate(make_config(pattern, eval__batch_size=size))
    assert len(batches) == steps
    records, mask = joined(batches, "record"), joined(batches, "mask")
    assert records[mask == 1].tolist() == list(range(RECORDS))
    assert set(records[mask == 0]) <= {-1}
    assert len(records) == steps * size
    assert not joined(batches, "video")[mask == 0].any()


def test_hosts_share_an_evaluation(config):
    whole = evaluate(config)
    parts = [evaluate(config, rows=slice(2 * host, 2 * host + 2)) for host in range(2)]
    for step, batch in enumerate(whole):
        assert_same([batch], [{name: np.concatenate([part[step][name] for part in parts]) for name in batch}])


def test_views_and_crops_of_a_video_lie_side_by_side(pattern):
    config = make_config(pattern, eval__num_views=2, eval__num_crops=3)
    config.model.num_frames = 2
    batch = evaluate(config, resolution=24)[0]
    assert batch["video"].shape == (4, 6, 2, 24, 24, 3)
    # 6 frames in two parts of 3: view 0 takes 1.5 -> 2 and 4.5 -> 4, view 1 takes 3 and 6 -> 5 (clamped).
    for view, frames in enumerate([(2, 4), (3, 5)]):
        for crop, left in enumerate([0, 4, 8]):  # of 32 columns, the short side being 24 already
            for time_step, frame in enumerate(frames):
                stored = tf.io.decode_jpeg(tf.io.encode_jpeg(picture(0, frame), quality=95)).numpy()
                shown = batch["video"][0, 3 * view + crop, time_step]
                np.testing.assert_array_equal(shown, stored[:, left : left + 24])


def test_interval_sampling_is_a_switch(pattern):
    config = make_config(pattern, data__sampling="dense", data__stride=1, eval__num_views=1)
    config.model.num_frames = 2
    shown = evaluate(config, resolution=24)[0]["video"][0, 0]
    for time_step, frame in enumerate([2, 3]):  # two consecutive frames from the middle of 6 - 2 = 4 starts
        stored = tf.io.decode_jpeg(tf.io.encode_jpeg(picture(0, frame), quality=95)).numpy()
        np.testing.assert_array_equal(shown[time_step], stored[:, (SIZE[1] - 24) // 2 :][:, :24])


def test_a_record_shorter_than_the_clip_repeats_frames(tmp_path):
    config = make_config(write_shards(tmp_path, [example(0, frames=1)], shards=1))
    assert train(config, 1)[0]["video"].shape == (4, 4, 16, 16, 3)
    video = evaluate(config)[0]["video"][0]
    assert np.all(video == video[:1, :1])


def test_a_flip_swaps_the_labels_of_the_pairs(pattern):
    config = make_config(pattern, augment__hflip_prob=1.0, augment__hflip_label_pairs=(0, 1))
    order = [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]
    for batch in train(config, 3):
        stored = [order[record] % NUM_CLASSES for record in batch["record"]]
        assert batch["label"].tolist() == [{0: 1, 1: 0}.get(label, label) for label in stored]


def test_rand_augment_and_erasing_are_switches(pattern, config):
    plain = train(config, 1)[0]["video"]
    for change in ({"augment__rand_augment": (2, 9.0)}, {"augment__erase_prob": 1.0}):
        changed = train(make_config(pattern, **change), 1)[0]["video"]
        assert changed.shape == plain.shape
        assert not np.array_equal(changed, plain)


def test_videos_and_their_list_go_the_same_way(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", frames=12, width=32, height=24)
    (tmp_path / "train.txt").write_text("0.mp4 jump\n1.mp4 run\n2.mp4 jump\n")
    config = make_config(str(tmp_path / "train.txt"), data__source="videos", data__max_bad_fraction=0.5)
    batches = evaluate(config, resolution=24)
    assert joined(batches, "label")[:3].tolist() == [0, 1, 0]
    # Middles and ends of thirds of four parts of 3 frames: view 0 takes 1, 4, 7, 10, view 2 takes 3, 6, 9, 11.
    assert numbers(batches[0]["video"][1, 0]) == [1, 4, 7, 10]
    assert numbers(batches[0]["video"][1, 2]) == [3, 6, 9, 11]
    (tmp_path / "1.mp4").write_bytes(b"no video")
    bad_records = BadRecords("train")
    source = sources.open_source(config.data, "train")
    batch = next(pipeline.train_batches(config, source, 0, slice(None), 16, bad_records))
    assert set(batch["record"]) == {0, 2}
    assert bad_records.counts == {"record": 1}


def test_prefetching_keeps_the_order_and_counts_the_wait():
    def batches():
        for number in range(5):
            time.sleep(0.01)
            yield {"number": number}

    with Prefetcher(batches(), lambda batch: batch["number"] * 10, 2) as prefetched:
        assert list(prefetched) == [0, 10, 20, 30, 40]
        assert prefetched.waited > 0
        assert list(prefetched) == []


def test_prefetching_raises_what_reading_raised_after_the_batches_before_it():
    def batches():
        yield {"number": 1}
        raise UserError("the disk is gone")

    with Prefetcher(batches(), lambda batch: batch["number"], 2) as prefetched:
        assert next(prefetched) == 1
        with pytest.raises(UserError, match="the disk is gone"):
            next(prefetched)


def test_closing_ends_the_thread_though_the_batches_do_not():
    before = threading.active_count()
    batches = ({"number": number} for number in itertools.count())
    prefetched = Prefetcher(batches, lambda batch: batch, 3)
    next(prefetched)
    prefetched.close()
    prefetched.close()
    assert threading.active_count() == before
    assert inspect.getgeneratorstate(batches) == inspect.GEN_CLOSED  # its pipeline has ended too


def test_reading_stays_at_most_the_buffer_ahead():
    taken = []

    def batches():
        for number in itertools.count():
            taken.append(number)
            yield {"number": number}

    with Prefetcher(batches(), lambda batch: batch["number"], 2) as prefetched:
        assert [next(prefetched) for _ in range(3)] == [0, 1, 2]
        time.sleep(0.05)
        assert len(taken) <= 3 + 2 + 1  # given, ready, and the one that waits for a place
