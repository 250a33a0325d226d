"""Evaluation of a run or of initial weights on data.val, and the result files."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence

import jax
import ml_collections
import numpy as np
from etils import epath
from jax.sharding import Mesh

from dist_jax.config import label_names
from dist_jax.data.bad_records import BadRecords
from dist_jax.data.source import Source
from dist_jax.data.sources import open_source
from dist_jax.distributed import sharding
from dist_jax.errors import UserError
from dist_jax.evaluation import epic, epic_annotations, zero_shot
from dist_jax.evaluation.eval_step import MODEL, PLAIN, TRAINED
from dist_jax.evaluation.metrics import METRICS, MULTI_LABEL_METRICS, compute_metrics
from dist_jax.evaluation.results import Scores, summary_line, write_results
from dist_jax.evaluation.run_scores import LABELS, write_run_scores
from dist_jax.evaluation.scoring import VideoLogits, compute_logits, make_eval_function
from dist_jax.evaluation.splits import check_video_lists, read_splits
from dist_jax.evaluation.view_scores import sum_views, to_scores
from dist_jax.experiment import Experiment, build
from dist_jax.files import make_folder, write_text
from dist_jax.models.networks import NO_NETWORK
from dist_jax.weights.init_from import load_initial
from dist_jax.workdir.checkpoints import load_params
from dist_jax.workdir.run_metadata import (
    RunMetadata,
    make_workdir,
    raise_if_conflicts,
    read_run_metadata,
    write_run_metadata,
)

_LISTED = 5  # class names in a message
_OTHER_CLASSIFIERS = (f"{TRAINED}_", f"{PLAIN}_")  # their metrics are in the table of the splits


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation."""

    summary: dict[str, float]  # videos, and metrics from 0 to 1
    splits: list[zero_shot.SplitMetrics]  # one label only
    bad: dict[str, float]  # number of unreadable videos by kind (see `data.bad_records.KINDS`)

    @property
    def has_split_table(self) -> bool:
        """Whether there are several splits or classifiers, which need a table."""
        return len(self.splits) > 1 or any(len(result.metrics) > 1 for result in self.splits)


def evaluate(config: ml_collections.ConfigDict, workdir: str, mesh: Mesh, name: str) -> dict[str, float]:
    """Evaluates the best checkpoint of `workdir`, the weights config.init_from or plain CLIP. Writes results/NAME*.

    The classes may differ from those of the training (zero-shot evaluation, see eval.zero_shot_weight).

    Returns:
        videos, and the metrics (see `summarize`).

    Raises:
        UserError: there are no parameters, or they belong to a different model.
    """
    sharding.check_batch(mesh, "eval.batch_size", config.eval.batch_size)
    check_best_metric(config)
    make_workdir(workdir)
    experiment = build(config, mesh)
    step, params = _trained_params(config, workdir, experiment)
    source = open_source(config.data, "val", config.seed)
    evaluator = Evaluator(experiment, source, workdir, name, is_final=True)
    result = evaluator(step, sharding.place_tree(mesh, params))
    if jax.process_index() == 0:
        if read_run_metadata(workdir) is None:  # not a training run: compare needs the settings
            write_run_metadata(evaluator.file.parent, experiment.run_metadata(0), f"{name}_run.json")
        views = f"{evaluator.num_views} view{'s' if evaluator.num_views > 1 else ''}"
        line = f"step {step}, {result.summary['videos']} videos, {views}"
        of_model = {name: value for name, value in result.summary.items() if not name.endswith("_std")}
        of_model = {name: value for name, value in of_model.items() if not name.startswith(_OTHER_CLASSIFIERS)}
        print(f"{line}: {summary_line(of_model)}; {evaluator.file}")
        print_splits(result, config.eval.zero_shot_weight)
    return result.summary


def print_splits(result: Evaluation, zero_shot_weight: float) -> None:
    """Prints the missing and dropped videos of each split, and the table if there are several splits or classifiers."""
    for note in filter(None, (metrics.split.note for metrics in result.splits)):
        print(note)
    if result.has_split_table:
        print(zero_shot.as_table(result.splits, zero_shot_weight), end="")


def check_best_metric(config: ml_collections.ConfigDict) -> None:
    """Raises UserError if checkpoint.best_metric is neither empty nor a metric of this run."""
    name = config.checkpoint.best_metric
    known = [*(MULTI_LABEL_METRICS if config.data.multi_label else METRICS)]
    if len(label_names(config)) > 1:
        known = [f"{kind}_top{k}" for kind in ("action", "verb", "noun") for k in (1, 5)]
    if name and name not in known:
        raise UserError(f"checkpoint.best_metric={name!r}: must be one of {', '.join(known)}, or empty")


def _trained_params(config: ml_collections.ConfigDict, workdir: str, experiment: Experiment) -> tuple[int, dict]:
    """Step and network parameters to evaluate, on this host. Raises the errors of `evaluate`."""
    metadata = read_run_metadata(workdir)
    if metadata is not None:
        raise_if_conflicts(workdir, metadata.network_conflicts(experiment.run_metadata(metadata.num_records)))
        _check_class_subsets(config, metadata, experiment.class_names)
        if config.init_from not in ("", metadata.config["init_from"]):  # the value of the training run is allowed
            raise UserError(
                f"{workdir} contains a training run, but config.init_from={config.init_from} is set; use another "
                "--workdir, or remove config.init_from"
            )
        return load_params(workdir, config.checkpoint.best_metric)
    if experiment.model.network_name == NO_NETWORK:
        return 0, {}
    if not config.init_from:
        raise UserError(
            f"{workdir} contains no training run; use another --workdir, or set config.init_from to weights"
        )
    if jax.process_index() == 0:
        print(f"{workdir} contains no training run: evaluating config.init_from={config.init_from}", flush=True)
    model, backbone = experiment.model, experiment.backbone_weights
    return 0, load_initial(config.init_from, model.network_name, model.dist, backbone, same_backbone=True)


def _check_class_subsets(
    config: ml_collections.ConfigDict, metadata: RunMetadata, class_names: Mapping[str, Sequence[str]]
) -> None:
    """Raises UserError if a run on some classes is evaluated on other classes that include some of its own."""
    if not config.data.classes_file or not metadata.config["data"].get("classes_file"):
        return
    base, novel = (set().union(*names.values()) for names in (metadata.class_names, class_names))
    if base != novel and base & novel:
        shared = sorted(base & novel)
        raise UserError(
            f"data.classes_file={config.data.classes_file}: {len(shared)} of {len(novel)} classes are among those "
            f"of the training: {', '.join(shared[:_LISTED])}; base and novel classes must not overlap"
        )


class Evaluator:
    """Scores the videos of data.val and writes WORKDIR/results/NAME*. Compiles at the first call.

    Attributes:
        num_views: V * crops; the scores of a video are a sum over them.
        file: NAME.json.
    """

    def __init__(self, experiment: Experiment, source: Source, workdir: str, name: str, is_final: bool = False) -> None:
        """`is_final`: also draw plots. Raises UserError if a file of config.eval is missing or invalid."""
        check_files(experiment.config, experiment.class_names)
        self.num_views = experiment.config.eval.num_views * experiment.config.eval.num_crops
        self.file = epath.Path(workdir) / "results" / f"{name}.json"
        self._experiment, self._source, self._is_final = experiment, source, is_final
        self._eval_fn = make_eval_function(experiment)
        self._bad_records = BadRecords("val", bad_records_file(workdir), source.identity)

    def __call__(self, step: int, params: dict, should_stop: Callable[[], bool] = lambda: False) -> Evaluation | None:
        """Scores all videos with the parameters of training step `step`, which are placed on the mesh.

        `should_stop` is called after every batch and must agree on all hosts. If it returns True, nothing is written
        and None is returned.
        """
        logits = compute_logits(self._experiment, self._source, self._eval_fn, params, self._bad_records, should_stop)
        if logits is None:
            return None
        result = summarize(self._experiment, logits)
        if jax.process_index() == 0:
            self._write(step, logits, result)
        return result

    def _write(self, step: int, logits: VideoLogits, result: Evaluation) -> None:
        """Writes the files of each label, and those of EPIC-KITCHENS-100 and of splits."""
        class_names, config = self._experiment.class_names, self._experiment.config
        make_folder(str(self.file.parent))
        views = {name: to_scores(values, config.data.multi_label) for name, values in logits.logits[MODEL].items()}
        for label, scores in views.items():
            file = self.file if len(views) == 1 else self.file.with_stem(f"{self.file.stem}_{label}")
            of_label = Scores(sum_views(scores), logits.labels.get(label), logits.ids, logits.bad)
            summary = result.summary if len(views) == 1 else _label_summary(of_label)
            names, data = class_names[label], config.data.val
            write_results(file, of_label, summary, names, self.num_views, step, data=data, plots=self._is_final)
        if len(views) > 1:
            write_text(str(self.file), json.dumps({"step": step, "views": self.num_views, **result.summary}, indent=1))
        if set(views) <= set(LABELS):
            write_run_scores(self.file.with_name(f"{self.file.stem}_scores.npz"), logits.ids, views)
        if result.has_split_table:
            weight = self._experiment.config.eval.zero_shot_weight
            zero_shot.write_splits(self.file.with_name(f"{self.file.stem}_splits.json"), result.splits, weight)


def _label_summary(scores: Scores) -> dict[str, float]:
    """Number of videos, and the metrics of one of two labels if the videos have labels."""
    metrics = {} if scores.labels is None else compute_metrics(scores.scores, scores.labels)
    return {"videos": len(scores.ids), **metrics}


def check_files(config: ml_collections.ConfigDict, class_names: Mapping[str, Sequence[str]]) -> None:
    """Reads the files of config.eval that `summarize` reads: a training needs them only after the first epochs.

    Args:
        config: validated.
        class_names: of each label, by label name.

    Raises:
        UserError: a list does not exist, is empty or names an unknown class, or the annotations are invalid.
    """
    settings = config.eval
    if not settings.has_labels:
        return
    if len(class_names) > 1:
        if settings.epic_annotations:
            epic_annotations.read_groups(settings.epic_annotations)
        return
    for item in filter(None, settings.video_lists.split(",")):
        check_video_lists(item)
    if settings.class_lists:
        (names,) = class_names.values()
        read_splits(settings, names, [], np.arange(len(names)))  # as if each class had one video


def bad_records_file(workdir: str) -> epath.Path:
    """The list of records that this host could not read: bad_records.csv, on host N bad_records-N.csv."""
    host = f"-{jax.process_index()}" if jax.process_index() else ""
    return epath.Path(workdir) / f"bad_records{host}.csv"


def summarize(experiment: Experiment, logits: VideoLogits) -> Evaluation:
    """Metrics of all videos.

    The summary has `videos` and
      - with one label: the metrics of METRICS or MULTI_LABEL_METRICS (see `zero_shot.summarize_splits`);
      - with verbs and nouns: those of `epic.epic_metrics`;
      - without labels: nothing else.
    """
    config = experiment.config
    if not logits.labels:
        return Evaluation({"videos": len(logits.ids)}, [], logits.bad)
    if len(logits.labels) > 1:
        return Evaluation(_epic_summary(config.eval.epic_annotations, logits), [], logits.bad)
    ((label, labels),) = logits.labels.items()
    splits = read_splits(config.eval, experiment.class_names[label], logits.ids, labels)
    of_classifiers = {classifier: by_label[label] for classifier, by_label in logits.logits.items()}
    results = zero_shot.metrics_of_splits(of_classifiers, labels, splits)
    return Evaluation(zero_shot.summarize_splits(results), results, logits.bad)


def _epic_summary(annotations: str, logits: VideoLogits) -> dict[str, float]:
    views = {name: to_scores(values) for name, values in logits.logits[MODEL].items()}
    participants = [name.partition("_")[0] for name in logits.ids]  # P01_11_0: participant, video, action
    labels = epic_annotations.EpicLabels(logits.ids, participants, logits.labels["verb"], logits.labels["noun"])
    groups = epic_annotations.read_groups(annotations) if annotations else epic_annotations.NO_GROUPS
    return epic.epic_metrics(epic.EpicScores(logits.ids, views["verb"], views["noun"]), labels, groups)
