"""Records -> the rows of each batch that this host holds.

The step number is the whole state. Position p = step * batch_size + row in the endless sequence of examples belongs to
epoch p // n, and its record is entry p % n of that epoch's permutation. So batches cross epoch boundaries, no record is
dropped, and any host can start at any step. The random draws of an example depend only on (seed, epoch, record).
"""

import collections
import math
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import jax
import ml_collections
import numpy as np

from dist_jax.data import clips, input_threads
from dist_jax.data.bad_records import BadRecords, Problem
from dist_jax.data.batch_memory import BatchMemory
from dist_jax.data.clip_seed import ClipSeed
from dist_jax.data.clips import Row
from dist_jax.data.row_reader import RowReader
from dist_jax.data.source import Source, StoredClip, label_error
from dist_jax.errors import UserError

Batch = dict[str, Any]  # arrays; `labels` is a dict of arrays
# step -> the epoch and the candidate records of each row of this host. The first readable candidate is used.
Candidates = Callable[[int], list[tuple[int, Sequence[int]]]]

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
    shape = (len(rows), config.model.num_frames, resolution, resolution, 3)

    def make_row(clip: StoredClip, record: int, epoch: int, video: np.ndarray) -> Row:
        return clips.train_clip(config, source.num_classes, clip, ClipSeed(config.seed, epoch, record), video)

    reader = RowReader(source, make_row, partial(clips.blank_row, config, source.num_classes), bad_records)
    steps = range(start_step, sys.maxsize)
    for batch in _batches(reader, steps, candidates_of, shape, input_threads(config.data)):
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
    num_clips = config.eval.num_views * config.eval.num_crops
    shape = (len(rows), num_clips, config.model.num_frames, resolution, resolution, 3)

    def make_row(clip: StoredClip, record: int, epoch: int, video: np.ndarray) -> Row:
        del epoch  # evaluation is not random
        return clips.eval_clip(config, source.num_classes, clip, record, video)

    reader = RowReader(source, make_row, partial(clips.blank_row, config, source.num_classes), bad_records)
    steps = range(-(-source.size // config.eval.batch_size))
    for batch in _batches(reader, steps, candidates_of, shape, input_threads(config.data)):
        _check_labels(batch, source, config.eval.has_labels, "; if the records have no labels: eval.has_labels=False")
        bad_records.check(config.data.max_bad_fraction, source.size)
        yield batch


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of all records in an epoch: int64 [n], a permutation that depends only on (seed, epoch)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch]))).permutation(size)


def _train_candidates(config: ml_collections.ConfigDict, size: int, rows: np.ndarray) -> Candidates:
    """The candidates of a row are its record and the records after it in the epoch's order."""
    num_candidates = min(size, _MAX_CANDIDATES)

    @lru_cache(maxsize=2)
    def records(epoch: int) -> list[int]:
        order = epoch_order(config.seed, epoch, size).tolist()
        return order + order[: num_candidates - 1]  # after the last record comes the first

    def candidates_of(step: int) -> list[tuple[int, Sequence[int]]]:
        positions = (divmod(step * config.batch_size + row, size) for row in rows.tolist())
        return [(epoch, records(epoch)[first : first + num_candidates]) for epoch, first in positions]

    return candidates_of


def _eval_candidates(config: ml_collections.ConfigDict, size: int, rows: np.ndarray) -> Candidates:
    """The only candidate of a row is its record; there is none after the last record."""

    def candidates_of(step: int) -> list[tuple[int, Sequence[int]]]:
        records = (step * config.eval.batch_size + rows).tolist()
        return [(0, [record] if record < size else []) for record in records]

    return candidates_of


def _batches(
    reader: RowReader, steps: range, candidates_of: Candidates, shape: tuple[int, ...], num_threads: int
) -> Iterator[Batch]:
    """Yields a batch per step. `shape` is that of its `video`.

    Threads fill the rows of this batch, of the next one, and of more if they are small, so that every thread has a row.
    Decoding and resizing run outside Python's global lock.
    """
    num_rows = shape[0]
    num_ahead = max(1, math.ceil(num_threads / num_rows))  # batches
    memory = BatchMemory(shape)
    pending: collections.deque[tuple[np.ndarray, list[int], list[Future]]] = collections.deque()
    pool = ThreadPoolExecutor(num_threads, "input")

    def finish_batch() -> Batch:
        video, requested, futures = pending.popleft()
        rows, problems = zip(*(future.result() for future in futures), strict=True)
        _add_problems(reader.bad_records, requested, problems)
        batch = _stack(rows) | {"video": video}
        return batch | {"record": np.where(batch["mask"] > 0, batch["record"], requested)}

    try:
        for step in steps:
            video = memory.take()
            candidates = candidates_of(step)
            futures = [pool.submit(reader.read, *row, pixels) for row, pixels in zip(candidates, video, strict=True)]
            requested = [records[0] if records else -1 for _, records in candidates]
            pending.append((video, requested, futures))
            if len(pending) > num_ahead:
                yield finish_batch()
        while pending:
            yield finish_batch()
    finally:
        pool.shutdown(cancel_futures=True)


def _add_problems(bad_records: BadRecords, requested: Sequence[int], problems: Sequence[Problem | None]) -> None:
    """Counts the reads of the rows' first candidates (-1: there is none), and adds the unreadable ones."""
    bad_records.num_reads += len(requested) - requested.count(-1)
    for record, problem in zip(requested, problems, strict=True):
        if problem is not None:
            bad_records.num_bad_reads += 1
            if record not in bad_records:
                bad_records.add(record, problem)


def _stack(rows: Sequence[Row]) -> Batch:
    """The entries of a batch other than `video`."""
    ids = np.empty(len(rows), object)  # names have different lengths
    ids[:] = [row.pop("id") for row in rows]
    return jax.tree.map(lambda *values: np.stack(values), *rows) | {"id": ids}


def _check_labels(batch: Batch, source: Source, needs_label: bool = True, hint: str = "") -> None:
    """Removes `label_range`. Raises UserError for a class number that is not 0 to K - 1.

    -1 is the class number of a record without labels: an error only if `needs_label`, with `hint` in its message.
    """
    ranges = batch.pop("label_range")
    for name, num_classes in source.num_classes.items():
        low, high = ranges[name].T  # int64 [b] each
        is_invalid = (low < (0 if needs_label else -1)) | (high >= num_classes)
        for row in np.flatnonzero(is_invalid)[:1]:
            number = high[row] if high[row] >= num_classes else low[row]
            raise label_error(source, int(batch["record"][row]), name, int(number), hint)
