"""Few shots per class (data.shots_per_class) and some of the classes (data.classes_file)."""

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.small_records import NUM_CLASSES, example, write_shards
from hypothesis import given
from hypothesis import strategies as st

from dist_jax import config as settings
from dist_jax.data import pipeline, sources, subset
from dist_jax.data.source import Source, StoredClip
from dist_jax.errors import UserError

NAMES = [f"class {k}" for k in range(NUM_CLASSES)]
LABELS = "01234" * 4 + "012"  # of the records, one each
SPACED = " ".join(LABELS)


def open_source(data, split, class_names):
    """The source of these tests: data.train and data.val have the labels of each record, a digit each: 2 03 1 2."""
    labels = [[int(digit) for digit in record.strip("-")] for record in data[split].split()]
    num_classes = {"label": len(class_names["label"])}

    def read(record):
        return stored_clip(record, labels[record])

    return Source(len(labels), num_classes, read, lambda record: f"clip {record}", "memory")


def stored_clip(record, labels):
    """A clip without frames."""
    return StoredClip(1, 8, 8, {"label": np.array(labels, np.int64)}, b"%d" % record, None)


def class_names(data):
    return {"label": NAMES}


@pytest.fixture(autouse=True)
def memory_source(monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "memory", __name__)


def data_of(labels=SPACED, **fields):
    data = settings.defaults().data
    data.source, data.train, data.val = "memory", labels, labels
    data.update(fields)
    return data


@pytest.fixture
def class_list(tmp_path):
    """Writes a file of class names and returns its path."""

    def write(*names):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.txt"
        path.write_text("".join(f"{name}\n" for name in names))
        return str(path)

    return write


def clips(source):
    """(id, labels) of every clip, in order."""
    stored = [source.read(record) for record in range(source.size)]
    return [(int(clip.id), clip.labels["label"].tolist()) for clip in stored]


def ids(source):
    return [name for name, _ in clips(source)]


def test_the_training_split_has_k_records_of_each_class():
    source = sources.open_source(data_of(shots_per_class=3), "train", seed=1)
    assert source.size == len(set(ids(source))) == 3 * NUM_CLASSES
    assert source.num_classes == {"label": NUM_CLASSES}
    assert all(labels == [int(LABELS[record])] for record, labels in clips(source))
    assert sorted(LABELS[record] for record in ids(source)) == sorted("01234" * 3)
    assert [source.location(clip) for clip in range(15)] == [f"clip {record}" for record in ids(source)]
    assert sources.open_source(data_of(shots_per_class=3), "val", seed=1).size == len(LABELS)


def test_the_seed_determines_the_records():
    first, again, other = (sources.open_source(data_of(shots_per_class=2), "train", seed) for seed in (0, 0, 1))
    assert ids(first) == ids(again) and first.identity == again.identity
    assert set(ids(first)) != set(ids(other)) and first.identity != other.identity
    assert first.identity != sources.open_source(data_of(), "train").identity


def test_an_epoch_is_a_permutation_of_the_chosen_records(tmp_path):
    config = settings.defaults()
    config.data.train = write_shards(tmp_path, [example(record, frames=2, size=(8, 8)) for record in range(15)])
    config.data.shots_per_class, config.data.num_threads = 2, 2
    config.batch_size, config.mix.group_size, config.model.num_frames = 5, 1, 2
    config.augment.crop_scale, config.augment.crop_ratio, config.augment.hflip_prob = (1.0, 1.0), (1.0, 1.0), 0.0
    source = sources.open_source(config.data, "train", config.seed)
    batches = list(itertools.islice(pipeline.train_batches(config, source, 0, slice(None), 8), 4))
    names, labels = (
        np.concatenate(column) for column in zip(*((b["id"], b["labels"]["label"]) for b in batches), strict=True)
    )
    assert set(names[:10]) == set(names[10:]) and len(set(names[:10])) == 10
    numbers = np.array([int(name.removesuffix(b".mp4")) for name in names])
    assert labels.tolist() == (numbers % NUM_CLASSES).tolist()
    red = np.concatenate([batch["video"] for batch in batches])[..., 0].mean((1, 2, 3))
    np.testing.assert_allclose(red, 8 * numbers, atol=4)  # the frames are those of the record


def test_only_records_of_the_listed_classes_are_used_and_their_labels_are_positions(class_list):
    data = data_of(classes_file=class_list("class 4", "class 1"))
    assert sources.class_names(data) == {"label": ["class 4", "class 1"]}
    for split in ("train", "val"):
        source = sources.open_source(data, split)
        assert source.num_classes == {"label": 2}
        assert clips(source) == [(n, [{"4": 0, "1": 1}[label]]) for n, label in enumerate(LABELS) if label in "41"]


@pytest.mark.parametrize("base", [1, 3])
def test_base_and_novel_classes_partition_the_records(class_list, base):
    lists = class_list(*NAMES[:base]), class_list(*NAMES[base:])
    parts = [set(ids(sources.open_source(data_of(classes_file=path), "val"))) for path in lists]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == set(range(len(LABELS)))


def test_shots_of_listed_classes_are_those_of_the_same_classes_without_a_list(class_list):
    all_shots = sources.open_source(data_of(shots_per_class=2), "train", 3)
    some = sources.open_source(data_of(shots_per_class=2, classes_file=class_list(*NAMES[:1:-1])), "train", 3)
    assert ids(some) == [record for record in ids(all_shots) if LABELS[record] >= "2"]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60).map(np.array), st.integers(1, 5), st.integers(0, 2**31 - 1))
def test_every_draw_has_k_records_per_class_and_contains_the_draws_of_fewer(classes, shots, seed):
    by_class = {label: np.flatnonzero(classes == label) for label in set(classes.tolist())}
    if min(map(len, by_class.values())) < shots:
        with pytest.raises(UserError, match=f"shots_per_class={shots}: classes with fewer training records"):
            subset.draw(by_class, shots, seed, NAMES)
        return
    drawn = subset.draw(by_class, shots, seed, NAMES)
    assert sorted(classes[drawn]) == sorted([*by_class] * shots)
    assert np.all(np.diff(drawn) > 0)
    assert set(subset.draw(by_class, 1, seed, NAMES)) <= set(drawn)


def test_each_record_of_a_class_is_drawn_equally_often():
    drawn = np.concatenate([subset.draw({0: np.arange(4)}, 2, seed, NAMES) for seed in range(400)])
    # Binomial(400, 1/2): mean 200, standard deviation 10.
    assert np.abs(np.bincount(drawn, minlength=4) - 200).max() < 45


def test_a_class_with_too_few_records_is_an_error():
    with pytest.raises(
        UserError, match=r"=5: classes with fewer training records: 'class 3' \(4\), 'class 4' \(4\); use fewer"
    ):
        sources.open_source(data_of(shots_per_class=5), "train")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["class 1", "run", "class 7"], "not among the 5 class names of the data: 'run', 'class 7'; correct"),
        ([f"x{n}" for n in range(12)], "'x9' and 2 more; correct"),
        (["class 1", "class 1"], "lines 1 and 2 are both 'class 1'"),
    ],
)
def test_an_invalid_list_of_classes_is_an_error(class_list, names, message):
    data = data_of(classes_file=class_list(*names))
    for open_data in (sources.class_names, lambda data: sources.open_source(data, "val")):
        with pytest.raises(UserError, match=message):
            open_data(data)


def test_a_missing_list_of_classes_is_an_error():
    with pytest.raises(UserError, match=r"data\.classes_file=no\.txt does not exist"):
        sources.open_source(data_of(classes_file="no.txt"), "train")


def test_two_labels_are_an_error(class_list):
    names = class_list("a", "b")
    both = dict(label_key="verb,noun", class_names_file=f"{names},{names}")
    with pytest.raises(UserError, match=r"label_key=verb,noun: data\.classes_file needs a single label"):
        sources.open_source(data_of(**both, classes_file=names), "val")
    with pytest.raises(UserError, match=r"label_key=verb,noun: data\.shots_per_class needs a single label"):
        subset.select(None, data_of(**both, shots_per_class=1), "train", 0, NAMES, None)


def test_no_records_of_the_listed_classes_is_an_error(class_list):
    with pytest.raises(UserError, match=r"data\.val: none of the 3 records has one of the 1 classes"):
        sources.open_source(data_of("0 1 0", classes_file=class_list("class 3")), "val")


@pytest.mark.parametrize(
    ("labels", "message"), [("0 1 -", "2 has no label"), ("0 17 1", "1 has label 7, but .* 0 to 4")]
)
def test_a_record_without_a_valid_label_is_an_error(labels, message):
    with pytest.raises(UserError, match=f"clip {message}"):
        sources.open_source(data_of(labels, shots_per_class=1), "train")


def test_a_record_with_several_labels_belongs_to_the_class_of_the_first(class_list):
    data = data_of("301 03 2", classes_file=class_list("class 1", "class 3"))
    assert clips(sources.open_source(data, "val")) == [(0, [1, 0])]


def failing_source(labels, failures):
    """A source of records with these labels. `failures[record]` reads of a record fail."""

    def read(record):
        if failures.get(record, 0):
            failures[record] -= 1
            raise ValueError("the disk has failed")
        return stored_clip(record, [labels[record]])

    return Source(len(labels), {"label": 2}, read, lambda record: f"clip {record}", "memory")


def test_unreadable_records_are_left_out_with_one_warning(capsys):
    source = failing_source([0, 1, 0, 1, 0], {1: 9, 4: 9})
    readable, classes = subset.first_labels(source, "label", "train", 2)
    assert (readable.tolist(), classes.tolist()) == ([0, 2, 3], [0, 0, 1])
    assert capsys.readouterr().err == (
        "warning: data.train: 2 of 5 records are unreadable and left out, first clip 1\n"
    )


def test_a_record_that_fails_once_is_not_left_out(capsys):
    readable, _ = subset.first_labels(failing_source([0, 1, 0], {1: 1}), "label", "train", 2)
    assert readable.tolist() == [0, 1, 2]
    assert capsys.readouterr().err == ""


def with_labels(source, labels):
    """The source with labels that are known without reading. `labels[record]` is None if they are not."""

    def read_labels(record):
        return None if labels[record] is None else {"label": np.array(labels[record], np.int64)}

    return dataclasses.replace(source, labels=read_labels)


def test_records_with_known_labels_are_not_read():
    source = with_labels(failing_source([0, 1, 1, 0], {0: 9, 1: 9, 3: 9}), [[0], [1, 0], None, [1]])
    readable, classes = subset.first_labels(source, "label", "train", 2)
    assert (readable.tolist(), classes.tolist()) == ([0, 1, 2, 3], [0, 1, 1, 1])


def test_a_known_label_that_would_be_an_error_is_read_again(capsys):
    source = with_labels(failing_source([0, 1, 1], {1: 9}), [[7], [7], []])
    readable, classes = subset.first_labels(source, "label", "train", 2)
    assert (readable.tolist(), classes.tolist()) == ([0, 2], [0, 1])
    assert "1 of 3 records are unreadable" in capsys.readouterr().err
    with pytest.raises(UserError, match="clip 1 has label 2, but"):
        subset.first_labels(with_labels(failing_source([0, 2], {}), [[0], [2]]), "label", "train", 2)


def test_labels_of_chosen_records_are_positions_as_in_their_clips():
    labels = [[0], [1, 0], [1], None]
    source = with_labels(failing_source([0, 1, 1, 1], {}), labels)
    chosen = subset.choose_records(source, np.array([1, 2, 3]), "label", np.array([1]))
    assert [chosen.labels(record) for record in range(3)] == [{"label": [0]}, {"label": [0]}, None]


def test_few_records_wait_for_the_threads_at_the_same_time(monkeypatch):
    waiting = []

    class Pool(ThreadPoolExecutor):
        def map(self, function, records):
            waiting.append(len(records))
            return super().map(function, records)

    monkeypatch.setattr(subset, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(subset, "_NUM_SUBMITTED", 3)
    readable, classes = subset.first_labels(failing_source([0, 1] * 4, {}), "label", "train", 2)
    assert (readable.tolist(), classes.tolist()) == (list(range(8)), [0, 1] * 4)
    assert waiting == [3, 3, 2]
