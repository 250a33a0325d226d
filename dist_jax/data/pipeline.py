"""From records to batches of this host.

The step number is the whole state. Position p = step * batch_size + row of the endless sequence of examples belongs to
epoch p // n and holds that epoch's permutation at p % n, so batches run across the borders of epochs, nothing is
dropped, and any host can begin anywhere. What is drawn for an example depends on (seed, epoch, record) alone.
"""

import functools
import sys
from collections.abc import Callable, Generator, Iterator

import ml_collections
import numpy as np
import tensorflow as tf

from dist_jax.data import clips, cores
from dist_jax.data.bad_records import BadRecords
from dist_jax.data.sampling import Features
from dist_jax.data.source import Source
from dist_jax.errors import UserError

Batch = dict[str, np.ndarray]
MakeClip = Callable[[tf.Tensor, tf.Tensor], Features]  # record, epoch (int64 []) -> a row of a batch
# step -> of each of its rows the candidates, of which the first sound one is taken (int64 [b, k]), and the epoch (int64
# [b])
Positions = Callable[[np.int64], tuple[np.ndarray, np.ndarray]]

_CANDIDATES = 64  # so many bad records in a row end a run: no sound data set has them


def train_batches(
    config: ml_collections.ConfigDict,
    source: Source,
    start_step: int,
    rows: slice | np.ndarray,
    resolution: int,
    faults: BadRecords | None = None,
) -> Generator[Batch, None, None]:
    """This host's part of every batch from `start_step` on, without end.

    Args:
        config: the whole configuration.
        source: n clips.
        start_step: optimizer steps done before.
        rows: which rows of the global batch this host holds; their number is b.
        resolution: H = W, pixels.
        faults: takes the bad records; None: they count against data.max_bad_fraction but are not listed.

    Yields:
        `video` uint8 [b, T, H, W, 3], `label` int32 [b], `mask` float32 [b] (ones), `record` int64 [b], `id` bytes [b].

    A bad record's place is taken by the next sound one in that epoch's order, the same on every host.

    Raises:
        UserError: a label outside of the classes, too many bad records.
    """
    rows = np.arange(config.batch_size)[rows]
    faults = faults or BadRecords("train")
    positions = _train_positions(config, source.size, rows)
    clip = functools.partial(clips.train_clip, config, source, resolution)
    shape = [config.model.num_frames, resolution, resolution, 3]
    steps = range(start_step, sys.maxsize)
    for batch in _batches(config, steps, positions, clip, shape, len(rows)):
        _settle(batch, source, clip, faults)
        faults.settle(config.data.max_bad_fraction, source.size)
        if np.any(batch["mask"] == 0):
            record, tried = int(batch["record"][np.argmin(batch["mask"])]), min(source.size, _CANDIDATES)
            raise UserError(f"train: from {source.where(record)} on, {tried} records in a row are bad")
        yield batch


def eval_batches(
    config: ml_collections.ConfigDict,
    source: Source,
    rows: slice | np.ndarray,
    resolution: int,
    faults: BadRecords | None = None,
) -> Generator[Batch, None, None]:
    """This host's part of the ceil(n / eval.batch_size) batches that hold every record once over all hosts.

    Arguments as for train_batches; `rows` are rows of the global evaluation batch.

    Yields:
        `video` uint8 [b, V * crops, T, H, W, 3] (V = eval.num_views; crops = eval.num_crops, next to each other within
        a view), `label` int32 [b], `mask` float32 [b], `record` int64 [b], `id` bytes [b]. Padding after the last
        record has mask 0 and record -1. A bad record has mask 0 and its number: no other takes its place, `faults`
        counts and lists it.

    Raises:
        UserError: a label outside of the classes, too many bad records.
    """
    rows = np.arange(config.eval.batch_size)[rows]
    faults = faults or BadRecords("val")
    positions = _eval_positions(config, source.size, rows)
    shape = [config.eval.num_views * config.eval.num_crops, config.model.num_frames, resolution, resolution, 3]

    def clip(record: tf.Tensor, epoch: tf.Tensor) -> Features:
        del epoch  # nothing is drawn
        return clips.eval_clip(config, source, resolution, record)

    steps = range(-(-source.size // config.eval.batch_size))
    for batch in _batches(config, steps, positions, clip, shape, len(rows)):
        _settle(batch, source, clip, faults)
        faults.settle(config.data.max_bad_fraction, source.size)
        yield batch


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of all records in an epoch: int64 [n], a permutation that (seed, epoch) decides."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch]))).permutation(size)


def _train_positions(config: ml_collections.ConfigDict, size: int, rows: np.ndarray) -> Positions:
    """A row's candidates are its record and those behind it in the epoch's order."""
    order = functools.lru_cache(maxsize=2)(lambda epoch: epoch_order(config.seed, epoch, size))
    ahead = np.arange(min(size, _CANDIDATES))

    def positions(step: np.int64) -> tuple[np.ndarray, np.ndarray]:
        epoch, place = np.divmod(step * config.batch_size + rows, size)
        candidates = [order(int(e))[(p + ahead) % size] for e, p in zip(epoch, place, strict=True)]
        return np.stack(candidates), epoch

    return positions


def _eval_positions(config: ml_collections.ConfigDict, size: int, rows: np.ndarray) -> Positions:
    """A row's only candidate is its record; -1 beyond the last one."""

    def positions(step: np.int64) -> tuple[np.ndarray, np.ndarray]:
        record = step * config.eval.batch_size + rows
        return np.where(record < size, record, -1)[:, None], np.zeros_like(record)

    return positions


def _batches(
    config: ml_collections.ConfigDict,
    steps: range,
    positions: Positions,
    clip: MakeClip,
    shape: list[int],
    rows: int,
) -> Iterator[Batch]:
    """The rows of every step, each the first of its candidates that `clip` can make; blank if it can make none.

    Beside a batch's own entries it has `wanted` (int64 [b], the first candidates) and `epoch` (int64 [b]).
    """
    blank = clips.blank_clip(shape)

    # No Dataset.from_generator: one anywhere in a process makes TensorFlow give all memory back to the system at once,
    # and taking it anew for every clip took as long as decoding.
    def positions_of(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        candidates, epoch = tf.numpy_function(positions, [step], [tf.int64, tf.int64])
        return tf.ensure_shape(candidates, [rows, None]), tf.ensure_shape(epoch, [rows])

    def first_sound(candidates: tf.Tensor, epoch: tf.Tensor) -> Features:
        existing = tf.data.Dataset.from_tensor_slices(tf.boolean_mask(candidates, candidates >= 0))
        found = existing.map(lambda record: clip(record, epoch)).ignore_errors()
        row = found.concatenate(tf.data.Dataset.from_tensors(blank)).take(1).get_single_element()
        return row | {"wanted": candidates[0], "epoch": epoch}

    threads = config.data.num_threads or cores()
    dataset = tf.data.Dataset.range(steps.start, steps.stop).map(positions_of)
    dataset = dataset.unbatch().map(first_sound, num_parallel_calls=threads, deterministic=True)
    dataset = dataset.batch(rows, drop_remainder=True).prefetch(1)
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1  # examples run side by side, not their parts
    return dataset.with_options(options).as_numpy_iterator()


def _settle(batch: Batch, source: Source, clip: MakeClip, faults: BadRecords) -> None:
    """Takes the book-keeping out of the batch, hands its bad records to `faults`, and checks its labels."""
    wanted, epoch = batch.pop("wanted"), batch.pop("epoch")
    faults.reads += int(np.sum(wanted >= 0))
    for row in np.flatnonzero((wanted >= 0) & (batch["record"] != wanted)).tolist():
        record = int(wanted[row])
        if not faults.knows(record):
            found = _second_try(source, clip, wanted[row], epoch[row])
            if isinstance(found, dict):  # the file system faltered once; the record is sound and keeps its place
                for name, value in found.items():
                    batch[name] = _with_row(batch[name], row, value)
                continue
            faults.add(record, *found)
        faults.bad_reads += 1
    batch["record"] = np.where(batch["mask"] > 0, batch["record"], wanted)
    for record, label in zip(batch["record"], batch["label"], strict=True):
        if not 0 <= label < source.classes:
            what = "has no label of the kind data.label_key" if label < 0 else f"has label {label}"
            raise UserError(
                f"{source.where(int(record))} {what}, but the classes are numbered 0 to {source.classes - 1}: use the "
                "file of labels (data.class_names_file) that belongs to these clips"
            )


def _second_try(
    source: Source, clip: MakeClip, record: np.integer, epoch: np.integer
) -> dict[str, np.ndarray] | tuple[str, str, str]:
    """The row of a record that failed, or else kind, place and message of what is wrong with it.

    The kinds are checksum (of the record's bytes), image (a frame) and record (all else).
    """
    kind = "record"
    try:
        source.read(tf.constant(record))
        kind = "image"
        return {name: value.numpy() for name, value in clip(tf.constant(record), tf.constant(epoch)).items()}
    except tf.errors.DataLossError as error:
        kind, message = "checksum", error.message
    except (tf.errors.OpError, UserError) as error:  # the latter from Python in the pipeline, as PyAV's
        message = str(error)
    except Exception as error:  # whatever one record does to a source, the others are read
        message = f"{type(error).__name__}: {error}"
    return kind, source.where(int(record)), " ".join(message.split())[:300]


def _with_row(array: np.ndarray, row: int, value: np.ndarray) -> np.ndarray:
    copy = array.copy()  # TensorFlow's own memory is not to be written to
    copy[row] = value
    return copy
