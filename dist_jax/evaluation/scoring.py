"""Logits of all videos of a source. Every video counts exactly once, on any number of devices and hosts."""

import collections
import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from dist_jax.data import pipeline
from dist_jax.data.bad_records import KINDS, BadRecords
from dist_jax.data.prefetch import Prefetcher
from dist_jax.data.source import Source
from dist_jax.distributed import sharding
from dist_jax.errors import UserError
from dist_jax.evaluation.eval_step import ViewLogits, eval_step
from dist_jax.experiment import Experiment
from dist_jax.models.layers import matmul_precision

ID_BYTES = 256  # longest video name that hosts exchange, in UTF-8; longer names lose their beginning
_BATCHES_AHEAD = 2  # dispatched batches; each keeps its frames and its logits in device memory

EvalFunction = Callable[[dict, jax.Array], ViewLogits]  # (params, video uint8 [B, V * crops, T, H, W, 3])
HostLogits = dict[str, dict[str, np.ndarray]]  # as ViewLogits, for the b rows of this host: float32 [b, V * crops, K]


@dataclasses.dataclass(frozen=True)
class VideoLogits:
    """Logits of n videos in each view, ordered by record."""

    logits: dict[str, dict[str, np.ndarray]]  # classifier (see eval_step) -> label name -> float32 [n, V * crops, K]
    labels: dict[str, np.ndarray]  # label name -> int32 [n], or bool [n, K] with data.multi_label; empty: no labels
    ids: list[str]  # n video names
    bad: dict[str, float]  # number of unreadable videos by kind (see `data.bad_records.KINDS`)


def make_eval_function(experiment: Experiment) -> EvalFunction:
    """The jitted evaluation step with the frozen parameters and text features of an experiment."""
    model, config = experiment.model, experiment.config

    def step(params: dict, frozen: dict, text_features: dict, video: jax.Array) -> ViewLogits:
        return eval_step(model, config.eval.zero_shot_weight, params, frozen, text_features, video)

    jitted_step = jax.jit(step, out_shardings=sharding.replicated(experiment.mesh))

    def eval_fn(params: dict, video: jax.Array) -> ViewLogits:
        with matmul_precision(model.dtype):
            return jitted_step(params, experiment.frozen, experiment.text_features, video)

    return eval_fn


def compute_logits(
    experiment: Experiment,
    source: Source,
    eval_fn: EvalFunction,
    params: dict,
    bad_records: BadRecords,
    should_stop: Callable[[], bool],
) -> VideoLogits | None:
    """Computes the logits of every readable video of `source`. All hosts return the same result.

    `bad_records` collects the unreadable videos. `should_stop` is called after every batch. If it returns True, the
    function stops and returns None.
    """
    config, mesh = experiment.config, experiment.mesh
    rows = sharding.local_rows(mesh, config.eval.batch_size)
    batch_sharding = sharding.batch_sharding(mesh)
    batches = pipeline.eval_batches(config, source, rows, experiment.model.backbone.resolution, bad_records)

    def put(batch: pipeline.Batch) -> tuple[pipeline.Batch, jax.Array]:
        video = batch.pop("video")
        shape = (config.eval.batch_size, *video.shape[1:])
        return batch, jax.make_array_from_process_local_data(batch_sharding, video, shape)

    results: list[tuple[pipeline.Batch, HostLogits]] = []
    ahead: collections.deque[tuple[pipeline.Batch, ViewLogits]] = collections.deque()

    def finish_oldest() -> None:
        batch, logits = ahead.popleft()
        results.append((batch, _to_host(logits, rows)))

    with Prefetcher(batches, put, config.data.prefetch) as prefetched:
        for batch, video in prefetched:
            ahead.append((batch, eval_fn(params, video)))
            if len(ahead) >= _BATCHES_AHEAD:
                finish_oldest()
            if should_stop():
                return None
    while ahead:
        finish_oldest()
    return gather(results, bad_records, config.eval.has_labels)


def _to_host(logits: ViewLogits, rows: np.ndarray) -> HostLogits:
    """Waits for the logits of a global batch, and copies the `rows` of this host to its memory."""
    return jax.tree.map(lambda array: np.asarray(array)[rows], logits)  # an index array copies: no view of the device


def gather(
    results: list[tuple[pipeline.Batch, HostLogits]],
    bad_records: BadRecords,
    has_labels: bool,
) -> VideoLogits:
    """Collects the results of all hosts in the order of the records, without padding.

    Args:
        results: batches of `pipeline.eval_batches` without video, and their logits: the rows that this host reads.
        bad_records: of this host.
        has_labels: False: the labels are left out.

    Raises:
        UserError: no record could be read.
    """
    batches, logits = zip(*results, strict=True)
    local = {name: np.concatenate([batch[name] for batch in batches]) for name in ("record", "mask")}
    local["labels"] = jax.tree.map(lambda *parts: np.concatenate(parts), *(batch["labels"] for batch in batches))
    local["logits"] = jax.tree.map(lambda *parts: np.concatenate(parts), *logits)
    local["id"] = _as_bytes([name for batch in batches for name in batch["id"]])
    local["kind"] = np.array([bad_records.kind(int(record)) for record in local["record"]], np.int32)
    gathered = multihost_utils.process_allgather(local, tiled=True) if jax.process_count() > 1 else local
    read = np.flatnonzero(gathered["mask"])
    # If the tensor axis of the mesh spans several hosts, they read the same rows.
    _, first = np.unique(gathered["record"][read], return_index=True)
    order = read[first]
    if not order.size:
        raise UserError("no video of data.val could be read; bad_records.csv in the workdir lists the reasons")
    ids = [bytes(row).rstrip(b"\0").decode("utf-8", "replace") for row in gathered["id"][order]]
    unread = np.flatnonzero((gathered["mask"] == 0) & (gathered["record"] >= 0))
    _, first = np.unique(gathered["record"][unread], return_index=True)
    kinds = [KINDS[kind] for kind in gathered["kind"][unread][first]]
    bad = {kind: float(kinds.count(kind)) for kind in sorted(set(kinds))}
    values, labels = jax.tree.map(lambda array: array[order], (gathered["logits"], gathered["labels"]))
    return VideoLogits(values, labels if has_labels else {}, ids, bad)


def _as_bytes(names: list[bytes]) -> np.ndarray:
    """Names as uint8 [n, ID_BYTES], a form of text that hosts can gather."""
    table = np.zeros((len(names), ID_BYTES), np.uint8)
    for row, name in zip(table, names, strict=True):
        tail = np.frombuffer(name[-ID_BYTES:], np.uint8)
        row[: len(tail)] = tail
    return table
