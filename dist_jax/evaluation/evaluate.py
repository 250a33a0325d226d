"""Evaluation with V views. Every video counts exactly once, on any number of devices and hosts."""

from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dist_jax.data import pipeline
from dist_jax.data.bad_records import KINDS, BadRecords
from dist_jax.data.prefetch import Prefetcher
from dist_jax.data.source import Source
from dist_jax.data.sources import open_source
from dist_jax.distributed import sharding
from dist_jax.errors import UserError
from dist_jax.evaluation.eval_step import eval_step
from dist_jax.evaluation.metrics import METRICS
from dist_jax.evaluation.results import Scores, summarize, summary_line, write_results
from dist_jax.experiment import Experiment, build
from dist_jax.models.layers import matmul_precision
from dist_jax.weights.init_from import load_initial
from dist_jax.workdir.checkpoints import load_params
from dist_jax.workdir.run_metadata import make_workdir, raise_if_conflicts, read_run_metadata

ID_BYTES = 256  # longest video name that hosts exchange, in UTF-8; longer names lose their beginning
_BATCHES_AHEAD = 2  # dispatched batches; each keeps its frames in device memory

EvalFunction = Callable[[dict, jax.Array], jax.Array]  # (params, video uint8 [B, V * crops, T, H, W, 3]) -> [B, K]


def evaluate(config: ml_collections.ConfigDict, workdir: str, mesh: Mesh, name: str) -> dict[str, float]:
    """Evaluates the best checkpoint of `workdir`, or the weights config.init_from, and writes results/NAME.*.

    The classes may differ from those of the training (zero-shot evaluation, see eval.zero_shot_weight).

    Returns:
        videos, and the metrics of METRICS.

    Raises:
        UserError: there are no parameters, or they belong to a different model.
    """
    sharding.check_batch(mesh, "eval.batch_size", config.eval.batch_size)
    check_best_metric(config.checkpoint.best_metric)
    make_workdir(workdir)
    experiment = build(config, mesh)
    step, params = _trained_params(config, workdir, experiment)
    evaluator = Evaluator(experiment, open_source(config.data, "val"), workdir, name)
    summary = summarize(evaluator(step, sharding.place_tree(mesh, params)))
    if jax.process_index() == 0:
        views = f"{evaluator.num_views} view{'s' if evaluator.num_views > 1 else ''}"
        print(f"step {step}, {summary['videos']} videos, {views}: {summary_line(summary)}; {evaluator.file}")
    return summary


def check_best_metric(name: str) -> None:
    """Raises UserError if checkpoint.best_metric is neither empty nor in METRICS."""
    if name and name not in METRICS:
        raise UserError(f"checkpoint.best_metric={name!r}: must be one of {', '.join(METRICS)}, or empty")


def _trained_params(config: ml_collections.ConfigDict, workdir: str, experiment: Experiment) -> tuple[int, dict]:
    """Step and network parameters to evaluate, on this host. Raises the errors of `evaluate`."""
    metadata = read_run_metadata(workdir)
    if metadata is not None:
        raise_if_conflicts(workdir, metadata.network_conflicts(experiment.run_metadata(metadata.num_records)))
        if config.init_from not in ("", metadata.config["init_from"]):  # the value of the training run is allowed
            raise UserError(
                f"{workdir} contains a training run, but config.init_from={config.init_from} is set; use another "
                "--workdir, or remove config.init_from"
            )
        return load_params(workdir, config.checkpoint.best_metric)
    if not config.init_from:
        raise UserError(
            f"{workdir} contains no training run; use another --workdir, or set config.init_from to weights"
        )
    return 0, load_initial(config.init_from, experiment.model.dist, experiment.backbone_weights, same_backbone=True)


class Evaluator:
    """Scores the videos of data.val and writes WORKDIR/results/NAME.*. Compiles at the first call.

    Attributes:
        num_views: V * crops; the scores of a video are a sum over them.
        file: NAME.json.
    """

    def __init__(self, experiment: Experiment, source: Source, workdir: str, name: str) -> None:
        self.num_views = experiment.config.eval.num_views * experiment.config.eval.num_crops
        self.file = epath.Path(workdir) / "results" / f"{name}.json"
        self._experiment, self._source = experiment, source
        self._eval_fn = make_eval_function(experiment)
        self._bad_records = BadRecords("val", bad_records_file(workdir), source.identity)

    def __call__(self, step: int, params: dict, should_stop: Callable[[], bool] = lambda: False) -> Scores | None:
        """Scores all videos with the parameters of training step `step`, which are placed on the mesh.

        `should_stop` is called after every batch and must agree on all hosts. If it returns True, nothing is written
        and None is returned.
        """
        scores = score_videos(self._experiment, self._source, self._eval_fn, params, self._bad_records, should_stop)
        if scores is not None and jax.process_index() == 0:
            write_results(self.file, scores, self._experiment.class_names, self.num_views, step)
        return scores


def bad_records_file(workdir: str) -> epath.Path:
    """The list of records that this host could not read: bad_records.csv, on host N bad_records-N.csv."""
    host = f"-{jax.process_index()}" if jax.process_index() else ""
    return epath.Path(workdir) / f"bad_records{host}.csv"


def make_eval_function(experiment: Experiment) -> EvalFunction:
    """The jitted evaluation step with the frozen parameters and text features of an experiment."""
    model, zero_shot_weight = experiment.model, experiment.config.eval.zero_shot_weight
    (text_features,) = experiment.text_features.values()

    def step(params: dict, frozen: dict, text_features: jax.Array, video: jax.Array) -> jax.Array:
        return eval_step(model, zero_shot_weight, params, frozen, text_features, video)

    jitted_step = jax.jit(step, out_shardings=sharding.replicated(experiment.mesh))

    def eval_fn(params: dict, video: jax.Array) -> jax.Array:
        with matmul_precision(model.dtype):
            return jitted_step(params, experiment.frozen, text_features, video)

    return eval_fn


def score_videos(
    experiment: Experiment,
    source: Source,
    eval_fn: EvalFunction,
    params: dict,
    bad_records: BadRecords,
    should_stop: Callable[[], bool],
) -> Scores | None:
    """Scores every readable video of `source`. All hosts return the same result.

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

    results = []
    with Prefetcher(batches, put, config.data.prefetch) as prefetched:
        for batch, video in prefetched:
            results.append((batch, eval_fn(params, video)))
            if len(results) >= _BATCHES_AHEAD:
                jax.block_until_ready(results[-_BATCHES_AHEAD][1])
            if should_stop():
                return None
    (label_name,) = experiment.text_features
    return _gather(results, rows, label_name, bad_records)


def _gather(
    results: list[tuple[pipeline.Batch, jax.Array]], rows: np.ndarray, label_name: str, bad_records: BadRecords
) -> Scores:
    """Collects the results of all hosts in the order of the records, without padding."""
    local = {name: np.concatenate([batch[name] for batch, _ in results]) for name in ("record", "mask")}
    local["label"] = np.concatenate([batch["labels"][label_name] for batch, _ in results])
    local["scores"] = np.concatenate([np.asarray(scores)[rows] for _, scores in results])
    local["id"] = _as_bytes([name for batch, _ in results for name in batch["id"]])
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
    return Scores(gathered["scores"][order], gathered["label"][order], ids, bad)


def _as_bytes(names: list[bytes]) -> np.ndarray:
    """Names as uint8 [n, ID_BYTES], a form of text that hosts can gather."""
    table = np.zeros((len(names), ID_BYTES), np.uint8)
    for row, name in zip(table, names, strict=True):
        tail = np.frombuffer(name[-ID_BYTES:], np.uint8)
        row[: len(tail)] = tail
    return table
