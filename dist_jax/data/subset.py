"""Some of the clips of a source: those of some classes (data.classes_file), or k per class (data.shots_per_class).

The choice depends only on the labels of the records and the seed. So it is the same on every host, in any process and
for any number of hosts. A record with several labels belongs to the class of its first label, as in evaluation.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import ml_collections
import numpy as np

from dist_jax.data import input_threads
from dist_jax.data.source import Source, StoredClip, label_error, single_label
from dist_jax.errors import UserError, warn

_NUM_SHOWN = 10  # class names in an error message
_NUM_SUBMITTED = 4096  # records that wait for the threads at the same time; a data set can have millions


def check_listed(listed: Sequence[str], class_names: Sequence[str], path: str) -> None:
    """Raises UserError if the list of class names `path` has names that are not in `class_names`."""
    unknown = [name for name in listed if name not in set(class_names)]
    if unknown:
        raise UserError(
            f"data.classes_file={path}: not among the {len(class_names)} class names of the data: "
            f"{_join([repr(name) for name in unknown])}; correct the list or data.class_names_file"
        )


def select(
    source: Source,
    data: ml_collections.ConfigDict,
    split: str,
    seed: int,
    class_names: Sequence[str],
    listed: Sequence[str] | None,
) -> Source:
    """The clips that data.classes_file and, in the training split, data.shots_per_class choose.

    The clips keep their order. `location` and `id` are those of the original record.

    Args:
        source: all n clips, with one label (see `single_label`).
        data: config.data.
        split: "train" or "val".
        seed: config.seed, for the draw of data.shots_per_class.
        class_names: the names of all classes of `source`.
        listed: the names in data.classes_file. Labels become positions in this list. None: all classes stay.

    Raises:
        UserError: a record has no label or a label outside the classes, a class has too few records, or no record has
            one of the classes.
    """
    name = single_label(data, "data.shots_per_class" if data.shots_per_class else "data.classes_file")
    numbers = np.array([class_names.index(other) for other in (class_names if listed is None else listed)])
    readable, classes = first_labels(source, name, split, input_threads(data))
    chosen = readable[np.isin(classes, numbers)]
    if split == "train" and data.shots_per_class:
        by_class = {number: readable[classes == number] for number in numbers.tolist()}
        chosen = draw(by_class, data.shots_per_class, seed, class_names)
    if not len(chosen):
        raise UserError(
            f"data.{split}: none of the {source.size} records has one of the {len(numbers)} classes of "
            f"data.classes_file={data.classes_file}"
        )
    return choose_records(source, chosen, name, numbers)


def first_labels(source: Source, name: str, split: str, num_threads: int) -> tuple[np.ndarray, np.ndarray]:
    """The records with readable labels, and the class number of the first label of each: int64 [m] each.

    Reads the labels of all n records without their frames if the source can (`Source.labels`). Such a record counts as
    readable even if its frames are damaged: it is a bad record when a run reads its frames. Other records are read
    completely, but not decoded. Prints a warning with the number of unreadable records.

    Raises:
        UserError: a record has no label or a label outside the classes.
    """
    labels = _read_labels(source, name, np.arange(source.size), num_threads)
    unread = np.setdiff1d(np.arange(source.size), [*labels])
    if len(unread):
        labels |= _read_labels(source, name, unread, num_threads)  # an error of the file system can be temporary
    records = np.array(sorted(labels), np.int64)
    classes = np.array([labels[record] for record in records.tolist()], np.int64)
    for position in np.flatnonzero((classes < 0) | (classes >= source.num_classes[name]))[:1]:
        raise label_error(source, int(records[position]), name, int(classes[position]))
    if len(records) < source.size:
        first = source.location(int(np.setdiff1d(unread, records)[0]))
        warn(
            f"data.{split}: {source.size - len(records)} of {source.size} records are unreadable and left out, first "
            f"{first}"
        )
    return records, classes


def draw(records: Mapping[int, np.ndarray], shots: int, seed: int, class_names: Sequence[str]) -> np.ndarray:
    """Draws `shots` records of each class: sorted record numbers, int64 [classes * shots].

    The draw of a class depends only on (seed, class number, records of the class). Fewer shots are a subset of more.

    Args:
        records: class number -> its records, int64 [any number].
        shots: k.
        seed: config.seed.
        class_names: by class number, for the error message.

    Raises:
        UserError: a class has fewer than k records.
    """
    rare = [f"{class_names[number]!r} ({len(found)})" for number, found in records.items() if len(found) < shots]
    if rare:
        raise UserError(
            f"data.shots_per_class={shots}: classes with fewer training records: {_join(rare)}; use fewer shots, or "
            "leave these classes out with data.classes_file"
        )
    drawn = [
        np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number]))).permutation(found)[:shots]
        for number, found in records.items()
    ]
    return np.sort(np.concatenate(drawn))


def choose_records(source: Source, records: np.ndarray, name: str, numbers: np.ndarray) -> Source:
    """The clips `records` (int64 [m]) of a source. Class numbers[i] (int64 [K]) of the label `name` becomes class i.

    Labels of other classes are removed.
    """
    digest = hashlib.sha256(records.astype(np.int64).tobytes() + numbers.astype(np.int64).tobytes()).hexdigest()[:12]
    position = {number: position for position, number in enumerate(numbers.tolist())}

    def chosen(labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        kept = [position[number] for number in labels[name].tolist() if number in position]
        return {**labels, name: np.array(kept, np.int64)}

    def read(record: int) -> StoredClip:
        clip = source.read(int(records[record]))
        return dataclasses.replace(clip, labels=chosen(clip.labels))

    def read_labels(record: int) -> dict[str, np.ndarray] | None:
        labels = source.labels(int(records[record]))
        return None if labels is None else chosen(labels)

    return dataclasses.replace(
        source,
        size=len(records),
        num_classes={**source.num_classes, name: len(numbers)},
        read=read,
        location=lambda record: source.location(int(records[record])),
        seconds=lambda record: source.seconds(int(records[record])),
        labels=read_labels,
        identity=f"{source.identity}-{digest}",
    )


def _read_labels(source: Source, name: str, records: np.ndarray, num_threads: int) -> dict[int, int]:
    """Record -> class number of its first label, for the readable ones of `records`.

    -1 for a record without labels. A label outside the classes takes precedence over the first.
    """

    def outside(labels: np.ndarray) -> np.ndarray:
        return labels[(labels < 0) | (labels >= source.num_classes[name])]

    def read_label(record: int) -> int | None:
        try:
            labels = source.labels(record)
            # `labels` may come from a damaged record. `read` verifies those that would be an error.
            if labels is None or not len(labels[name]) or len(outside(labels[name])):
                labels = source.read(record).labels
        except Exception:  # `first_labels` counts the unreadable records
            return None
        return int([*outside(labels[name]), *labels[name], -1][0])

    with ThreadPoolExecutor(num_threads) as pool:
        labels = (
            (record, label)
            for part in np.split(records, range(_NUM_SUBMITTED, len(records), _NUM_SUBMITTED))
            for record, label in zip(part.tolist(), pool.map(read_label, part.tolist()), strict=True)
        )
        return {record: label for record, label in labels if label is not None}


def _join(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NUM_SHOWN} more" if len(names) > _NUM_SHOWN else ""
    return ", ".join(names[:_NUM_SHOWN]) + more
