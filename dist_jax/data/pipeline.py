"""Records -> the rows of each batch that this host holds.

The step number is the whole state. Position p = step * batch_size + row in the endless sequence of examples belongs to
epoch p // n, and its record is entry p % n of that epoch's permutation. So batches cross epoch boundaries, no record is
dropped, and any host can start at any step. The random draws of an example depend only on (seed, epoch, record).
"""

import functools
import sys
from collections.abc import Callable, Generator, Iterator
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from dist_jax.data import clips, num_cores
from dist_jax.data.bad_records import BadRecords, Problem
from dist_jax.data.sampling import Features
from dist_jax.data.source import Source, label_error
from dist_jax.errors import UserError

Batch = dict[str, Any]  # arrays; `labels` is a dict of arrays
MakeClip = Callable[[tf.Tensor, tf.Tensor], Features]  # record, epoch (int64 []) -> a row of a batch
# step -> candidate records of each row of this host (int64 [b, k]; the first readable one is used), epochs (int64 [b])
Candidates = Callable[[np.int64], tuple[np.ndarray, np.ndarray]]

_MAX_CANDIDATES = 64  # this many consecutive bad records stop the run


def train_batches(
    config: ml_collections.ConfigDict,
    source: Source,
    start_step: int,
    rows: slice | np.ndarray,
    resolution: int,
    bad_records: BadRecords | None = None,
) -> Generator[Batch, None, None]:
    """Yields this host's rows of every training batch from `start_step` on, without end.

    Args:
        config: the whole configuration.
        source: n clips.
        start_step: number of completed optimizer steps.
        rows: the b rows of the global batch that this host holds.
        resolution: H = W, pixels.
        bad_records: collects the bad records; None: they are not listed (data.max_bad_fraction still applies).

    Yields:
        `video` uint8 [b, T, H, W, 3], `labels` ({label name: int32 [b]}; with data.multi_label: {label name: bool [b,
        K]}), `mask` float32 [b] (ones), `record` int64 [b], `id` bytes [b].

    The next readable record in the epoch's order replaces a bad record, the same one on every host.

    Raises:
        UserError: a label outside the classes, too many bad records.
    """
    rows = np.arange(config.batch_size)[rows]
    bad_records = bad_records or BadRecords("train")
    clips.flip_label_pairs(config)  # raises here: errors of the functions below are those of a bad record
    candidates_of = _train_candidates(config, source.size, rows)
    make_clip = functools.partial(clips.train_clip, config, source, resolution)
    shape = [config.model.num_frames, resolution, resolution, 3]
    steps = range(start_step, sys.maxsize)
    for batch in _batches(config, source, steps, candidates_of, make_clip, shape, len(rows)):
        _finish_batch(batch, source, make_clip, bad_records)
        _check_labels(batch, source)
        bad_records.check(config.data.max_bad_fraction, source.size)
        if np.any(batch["mask"] == 0):
            record = int(batch["record"][np.argmin(batch["mask"])])
            num_candidates = min(source.size, _MAX_CANDIDATES)
            raise UserError(
                f"train: {num_candidates} consecutive records are unreadable, starting with {source.location(record)}: "
                "check the training data"
            )
        yield batch


def eval_batches(
    config: ml_collections.ConfigDict,
    source: Source,
    rows: slice | np.ndarray,
    resolution: int,
    bad_records: BadRecords | None = None,
) -> Generator[Batch, None, None]:
    """Yields this host's rows of the ceil(n / eval.batch_size) batches that together contain every record once.

    Args as for train_batches; `rows` are rows of the global evaluation batch. With eval.has_labels=False, records may
    have no labels; their label is -1.

    Yields:
        `video` uint8 [b, V * crops, T, H, W, 3] (V = eval.num_views, crops = eval.num_crops; the crops of a view are
        adjacent), `labels` (as train_batches), `mask` float32 [b], `record` int64 [b], `id` bytes [b]. Padding
        after the last record has mask 0 and record -1. A bad record has mask 0 and its own number; it is not replaced.

    Raises:
        UserError: a label outside the classes, too many bad records.
    """
    rows = np.arange(config.eval.batch_size)[rows]
    bad_records = bad_records or BadRecords("val")
    candidates_of = _eval_candidates(config, source.size, rows)
    shape = [config.eval.num_views * config.eval.num_crops, config.model.num_frames, resolution, resolution, 3]

    def make_clip(record: tf.Tensor, epoch: tf.Tensor) -> Features:
        del epoch  # evaluation is not random
        return clips.eval_clip(config, source, resolution, record)

    steps = range(-(-source.size // config.eval.batch_size))
    for batch in _batches(config, source, steps, candidates_of, make_clip, shape, len(rows)):
        _finish_batch(batch, source, make_clip, bad_records)
        _check_labels(batch, source, config.eval.has_labels, "; if the records have no labels: eval.has_labels=False")
        bad_records.check(config.data.max_bad_fraction, source.size)
        yield batch


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of all records in an epoch: int64 [n], a permutation that depends only on (seed, epoch)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch]))).permutation(size)


def _train_candidates(config: ml_collections.ConfigDict, size: int, rows: np.ndarray) -> Candidates:
    """The candidates of a row are its record and the records after it in the epoch's order."""
    order = functools.lru_cache(maxsize=2)(lambda epoch: epoch_order(config.seed, epoch, size))
    ahead = np.arange(min(size, _MAX_CANDIDATES))

    def candidates_of(step: np.int64) -> tuple[np.ndarray, np.ndarray]:
        epoch, offset = np.divmod(step * config.batch_size + rows, size)
        candidates = [order(int(e))[(first + ahead) % size] for e, first in zip(epoch, offset, strict=True)]
        return np.stack(candidates), epoch

    return candidates_of


def _eval_candidates(config: ml_collections.ConfigDict, size: int, rows: np.ndarray) -> Candidates:
    """The only candidate of a row is its record; -1 after the last record."""

    def candidates_of(step: np.int64) -> tuple[np.ndarray, np.ndarray]:
        record = step * config.eval.batch_size + rows
        return np.where(record < size, record, -1)[:, None], np.zeros_like(record)

    return candidates_of


def _batches(
    config: ml_collections.ConfigDict,
    source: Source,
    steps: range,
    candidates_of: Candidates,
    make_clip: MakeClip,
    shape: list[int],
    num_rows: int,
) -> Iterator[Batch]:
    """Yields a batch per step. A row is the clip of its first readable candidate; blank if none is readable.

    Two extra entries are for `_finish_batch`: `requested` (int64 [b], the first candidates) and `epoch` (int64 [b]).
    """
    blank = clips.blank_clip(shape, source.num_classes, config.data.multi_label)

    # Do not use Dataset.from_generator: with one in the process, TensorFlow returns freed memory to the system at once,
    # and allocating it again for each clip takes as long as decoding.
    def find_candidates(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        records, epoch = tf.numpy_function(candidates_of, [step], [tf.int64, tf.int64])
        return tf.ensure_shape(records, [num_rows, None]), tf.ensure_shape(epoch, [num_rows])

    def first_readable(candidates: tf.Tensor, epoch: tf.Tensor) -> Features:
        records = tf.data.Dataset.from_tensor_slices(tf.boolean_mask(candidates, candidates >= 0))
        readable = records.map(lambda record: make_clip(record, epoch)).ignore_errors()
        row = readable.concatenate(tf.data.Dataset.from_tensors(blank)).take(1).get_single_element()
        return row | {"requested": candidates[0], "epoch": epoch}

    num_threads = config.data.num_threads or num_cores()
    dataset = tf.data.Dataset.range(steps.start, steps.stop).map(find_candidates)
    dataset = dataset.unbatch().map(first_readable, num_parallel_calls=num_threads, deterministic=True)
    dataset = dataset.batch(num_rows, drop_remainder=True).prefetch(1)
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = num_threads
    options.threading.max_intra_op_parallelism = 1  # examples run in parallel, one thread each
    return dataset.with_options(options).as_numpy_iterator()


def _finish_batch(batch: Batch, source: Source, make_clip: MakeClip, bad_records: BadRecords) -> None:
    """Removes `requested` and `epoch`, retries unreadable records, adds the bad ones to `bad_records`."""
    requested, epoch = batch.pop("requested"), batch.pop("epoch")
    bad_records.num_reads += int(np.sum(requested >= 0))
    for row in np.flatnonzero((requested >= 0) & (batch["record"] != requested)).tolist():
        record = int(requested[row])
        if record not in bad_records:
            result = _retry(source, make_clip, requested[row], epoch[row])
            if not isinstance(result, Problem):  # a temporary error, e.g. of the file system: the record stays
                batch.update(tf.nest.map_structure(functools.partial(_with_row, row=row), batch, result))
                continue
            bad_records.add(record, result)
        bad_records.num_bad_reads += 1
    batch["record"] = np.where(batch["mask"] > 0, batch["record"], requested)


def _check_labels(batch: Batch, source: Source, needs_label: bool = True, hint: str = "") -> None:
    """Removes `label_range`. Raises UserError for a class number that is not 0 to K - 1.

    -1 is the class number of a record without labels: an error only if `needs_label`, with `hint` in its message.
    """
    for name, bounds in batch.pop("label_range").items():
        low, high = bounds.T  # int64 [b] each
        is_invalid = (low < (0 if needs_label else -1)) | (high >= source.num_classes[name])
        for row in np.flatnonzero(is_invalid)[:1]:
            number = high[row] if high[row] >= source.num_classes[name] else low[row]
            raise label_error(source, int(batch["record"][row]), name, int(number), hint)


def _retry(source: Source, make_clip: MakeClip, record: np.integer, epoch: np.integer) -> Batch | Problem:
    """Reads a record once more outside the pipeline. Returns its row, or the problem if it fails again."""
    kind = "record"
    try:
        source.read(tf.constant(record))
        kind = "image"
        return tf.nest.map_structure(lambda value: value.numpy(), make_clip(tf.constant(record), tf.constant(epoch)))
    except tf.errors.DataLossError as error:
        kind, message = "checksum", error.message
    except (tf.errors.OpError, UserError) as error:  # UserError: from Python code of the source, e.g. PyAV
        message = str(error)
    except Exception as error:  # an error in one record must not stop the others
        message = f"{type(error).__name__}: {error}"
    return Problem(kind, source.location(int(record)), " ".join(message.split())[:300])


def _with_row(array: np.ndarray, value: np.ndarray, row: int) -> np.ndarray:
    copy = array.copy()  # the array is TensorFlow's memory and read-only
    copy[row] = value
    return copy
