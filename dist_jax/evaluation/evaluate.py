"""Evaluation over V views: every video counted exactly once, on any number of devices and hosts."""

import csv
import dataclasses
import json
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
from dist_jax.evaluation.metrics import accuracies, class_accuracies, confusion_matrix, top_classes
from dist_jax.experiment import Experiment, build
from dist_jax.files import write_text
from dist_jax.text.text_features import precision_of
from dist_jax.weights.init_from import load_initial
from dist_jax.workdir.checkpoints import load_params
from dist_jax.workdir.run_metadata import make_workdir, read_run, refuse

ID_BYTES = 256  # longest video name that hosts tell each other, in UTF-8; longer ones lose their beginning
_BATCHES_AHEAD = 2  # batches that the devices may have before them: each keeps its frames in their memory


def evaluate(config: ml_collections.ConfigDict, workdir: str, mesh: Mesh, name: str) -> dict[str, float]:
    """Evaluates the best checkpoint of `workdir`, or without one config.init_from, and writes results/NAME.*.

    The classes may differ from those of the training: the zero-shot setting (see eval.zero_shot_weight).

    Returns:
        videos, top1, top5, mean_class_accuracy.

    Raises:
        UserError: if there are no parameters, or they are another model's.
    """
    sharding.check_batch(mesh, "eval.batch_size", config.eval.batch_size)
    make_workdir(workdir)
    experiment = build(config, mesh)
    step, params = _parameters(config, workdir, experiment)
    evaluator = Evaluator(experiment, open_source(config.data, "val"), workdir, name)
    summary = summarize(evaluator(step, sharding.place_tree(mesh, params)))
    if jax.process_index() == 0:
        share = {key: f"{value:.1%}" for key, value in summary.items() if key != "videos"}
        print(f"step {step}, {summary['videos']} videos, {evaluator.views} views: {share}; {evaluator.file}")
    return summary


def _parameters(config: ml_collections.ConfigDict, workdir: str, experiment: Experiment) -> tuple[int, dict]:
    """Step and DiST parameters that are to be evaluated, on this host; raises as `evaluate` does."""
    trained = read_run(workdir)
    if trained is not None:
        refuse(workdir, trained.network_conflicts(experiment.run(trained.records)))
        if config.init_from not in ("", trained.config["init_from"]):  # what the run began with may stay in its flags
            raise UserError(
                f"{workdir} holds a training run, and config.init_from={config.init_from} is given: choose one"
            )
        return load_params(workdir, config.checkpoint.best_metric)
    if not config.init_from:
        raise UserError(f"{workdir} holds no training run; give one that does, or weights by config.init_from")
    return 0, load_initial(config.init_from, experiment.model.dist, experiment.backbone, same_backbone=True)


class Evaluator:
    """Scores the videos of data.val by given parameters, and writes WORKDIR/results/NAME.*.

    Attributes:
        views: V * crops, what the scores of a video are the sum of.
        file: NAME.json.
    """

    def __init__(self, experiment: Experiment, source: Source, workdir: str, name: str) -> None:
        """For the videos of `source`; compiles when it is first called."""
        self.views = experiment.config.eval.num_views * experiment.config.eval.num_crops
        self.file = epath.Path(workdir) / "results" / f"{name}.json"
        self._experiment, self._source = experiment, source
        self._step = make_eval_step(experiment)
        self._faults = BadRecords("val", bad_records_file(workdir), source.identity)

    def __call__(self, step: int, params: dict, stop: Callable[[], bool] = lambda: False) -> "Scores | None":
        """The scores of the DiST parameters `params`, placed on the mesh, of training step `step`.

        `stop` is asked after every batch, on all hosts alike; where it says so, nothing is written and None returned.
        """
        found = score_videos(self._experiment, self._source, self._step, params, self._faults, stop)
        if found is not None and jax.process_index() == 0:
            write_results(self.file, found, self._experiment.classes, self.views, step)
        return found


def bad_records_file(workdir: str) -> epath.Path:
    """Where this host lists the records that it could not read: bad_records.csv, of host N bad_records-N.csv."""
    host = f"-{jax.process_index()}" if jax.process_index() else ""
    return epath.Path(workdir) / f"bad_records{host}.csv"


@dataclasses.dataclass(frozen=True)
class Scores:
    """What was found for each video, ordered by its record."""

    scores: np.ndarray  # float32 [n, K], softmax summed over views and crops
    labels: np.ndarray  # int32 [n]
    ids: list[str]  # n names
    bad: dict[str, float]  # number of videos that no host could read, by kind (see `faults.KINDS`)


def make_eval_step(experiment: Experiment) -> Callable[[dict, jax.Array], jax.Array]:
    """Compiled once for a shape: (DiST parameters, video uint8 [B, V * crops, T, H, W, 3]) -> scores [B, K]."""
    config, mesh = experiment.config, experiment.mesh

    def scores(params: dict, frozen: dict, text: jax.Array, video: jax.Array) -> jax.Array:
        return eval_step(experiment.model, config.eval.zero_shot_weight, params, frozen, text, video)

    step = jax.jit(scores, out_shardings=sharding.replicated(mesh))

    def run(params: dict, video: jax.Array) -> jax.Array:
        with precision_of(experiment.model.dtype):
            return step(params, experiment.frozen, experiment.text, video)

    return run


def score_videos(
    experiment: Experiment,
    source: Source,
    step: Callable[[dict, jax.Array], jax.Array],
    params: dict,
    faults: BadRecords,
    stop: Callable[[], bool],
) -> Scores | None:
    """The scores of every video of `source` that can be read (`faults` takes the others), the same on all hosts.

    `stop` is asked after every batch; None where it says so.
    """
    config, mesh = experiment.config, experiment.mesh
    rows = sharding.local_rows(mesh, config.eval.batch_size)
    layout = sharding.batch_sharding(mesh)
    batches = pipeline.eval_batches(config, source, rows, experiment.model.vision.resolution, faults)

    def put(batch: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], jax.Array]:
        video = batch.pop("video")
        shape = (config.eval.batch_size, *video.shape[1:])
        return batch, jax.make_array_from_process_local_data(layout, video, shape)

    found = []
    with Prefetcher(batches, put, config.data.prefetch) as prefetched:
        for batch, video in prefetched:
            found.append((batch, step(params, video)))
            if len(found) >= _BATCHES_AHEAD:
                jax.block_until_ready(found[-_BATCHES_AHEAD][1])
            if stop():
                return None
    return _gather(found, rows, faults)


def _gather(found: list[tuple[dict[str, np.ndarray], jax.Array]], rows: np.ndarray, faults: BadRecords) -> Scores:
    """Brings together what the hosts found, in the order of the records, without the padding."""
    mine = {name: np.concatenate([batch[name] for batch, _ in found]) for name in ("record", "label", "mask")}
    mine["scores"] = np.concatenate([np.asarray(scores)[rows] for _, scores in found])
    mine["id"] = _as_bytes([name for batch, _ in found for name in batch["id"]])
    mine["fault"] = np.array([faults.kind(int(record)) for record in mine["record"]], np.int32)
    if jax.process_count() > 1:
        mine = multihost_utils.process_allgather(mine, tiled=True)
    real = np.flatnonzero(mine["mask"])
    # Where a tensor axis spans hosts, several have read the same rows.
    _, first = np.unique(mine["record"][real], return_index=True)
    order = real[first]
    if not order.size:
        raise UserError("no video of data.val could be read; bad_records.csv in the workdir says why")
    ids = [bytes(row).rstrip(b"\0").decode("utf-8", "replace") for row in mine["id"][order]]
    unread = np.flatnonzero((mine["mask"] == 0) & (mine["record"] >= 0))
    _, first = np.unique(mine["record"][unread], return_index=True)
    kinds = [KINDS[kind] for kind in mine["fault"][unread][first]]
    bad = {kind: float(kinds.count(kind)) for kind in sorted(set(kinds))}
    return Scores(mine["scores"][order], mine["label"][order], ids, bad)


def _as_bytes(names: list[bytes]) -> np.ndarray:
    """Names as uint8 [n, ID_BYTES], the only kind of text that hosts can gather."""
    table = np.zeros((len(names), ID_BYTES), np.uint8)
    for row, name in zip(table, names, strict=True):
        tail = np.frombuffer(name[-ID_BYTES:], np.uint8)
        row[: len(tail)] = tail
    return table


def summarize(found: Scores) -> dict[str, float]:
    """The numbers of an evaluation: videos counted, top1, top5, mean_class_accuracy (0 to 1)."""
    return {"videos": len(found.labels), **accuracies(found.scores, found.labels)}


def write_results(file: epath.Path, found: Scores, classes: list[str], views: int, step: int) -> None:
    """Writes NAME.json (numbers, per-class accuracy, confusion matrix) and beside it NAME.csv (top 5 of each video).

    Args:
        file: of the JSON.
        found: what was found.
        classes: K names.
        views: V * crops.
        step: of the training, whose parameters were evaluated.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    confusion = confusion_matrix(found.scores, found.labels)
    per_class = [None if np.isnan(a) else round(float(a), 6) for a in class_accuracies(confusion)]
    report = {
        "step": step,
        "views": views,
        **summarize(found),
        "class_accuracy": dict(zip(classes, per_class, strict=True)),
        "classes": classes,
        "confusion": confusion.tolist(),
    }
    write_text(str(file), json.dumps(report, indent=1))
    with file.with_suffix(".csv").open("w") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        count = min(5, len(classes))
        writer.writerow(["video", "label", *(f"{part}{i + 1}" for i in range(count) for part in ("top", "score"))])
        for row, label, video in zip(found.scores, found.labels, found.ids, strict=True):
            best = top_classes(row[None], count)[0]
            guesses = (cell for k in best for cell in (classes[k], f"{row[k] / views:.4f}"))
            writer.writerow([video, classes[label], *guesses])
