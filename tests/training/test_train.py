"""Complete training runs: checkpoints, preemption, resuming on the same and on other meshes, refusal, evaluation."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from contextlib import closing
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import training_run
from helpers.training_run import (
    ALL_AXES,
    CLASS_NAMES,
    DATA_PARALLEL,
    NUM_STEPS,
    NUM_TRAIN,
    NUM_VAL,
    SINGLE_DEVICE,
    make_config,
    newest_checkpoint,
    preemption_at,
    read_losses,
    read_metrics,
    reproducible_metrics,
    run,
)
from jax.errors import JaxRuntimeError

from dist_jax import config as settings
from dist_jax.distributed import sharding
from dist_jax.distributed.mesh import make_mesh
from dist_jax.errors import UserError
from dist_jax.evaluation.evaluate import evaluate
from dist_jax.training import batch_search, find_batch, memory, train
from dist_jax.training.step_plan import StepPlan
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import model_files
from dist_jax.workdir.checkpoints import Checkpoints
from dist_jax.workdir.run_metadata import read_run_metadata, write_run_metadata

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


def test_a_run_has_finite_losses_and_does_not_change_the_backbone(training_data, finished_run):
    workdir, frozen = finished_run
    assert newest_checkpoint(workdir)[0] == NUM_STEPS
    losses = read_losses(workdir)
    assert len(losses) == NUM_STEPS
    assert np.all(np.isfinite(list(losses.values())))
    loaded = clip_weights.load(str(training_data / "clip")).params
    assert set(frozen) == {"vision", "logit_scale"}
    jax.tree.map(np.testing.assert_array_equal, frozen, {name: loaded[name] for name in frozen})


def test_a_run_saves_the_text_features_of_its_classes_for_predictions(training_data, finished_run):
    workdir, _ = finished_run
    features = model_files.read_model(workdir).text_features
    encode_texts = clip_weights.load(str(training_data / "clip")).encode_texts
    np.testing.assert_allclose(features, encode_texts(CLASS_NAMES), atol=1e-6)


def test_a_checkpoint_contains_no_backbone_parameters(finished_run):
    workdir, _ = finished_run
    step, params = newest_checkpoint(workdir)
    names = {sharding.path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]}
    assert not any(name.startswith(("vision", "text", "blocks")) or "/blocks/" in name for name in names)
    folder = workdir / "checkpoints" / str(step)
    assert {file.name for file in folder.iterdir() if file.is_dir()} == {
        "params",
        "opt_state",
        "step",
        "metrics",
        "log",
    }


def test_every_step_logs_all_documented_metrics(finished_run):
    workdir, _ = finished_run
    lines = read_metrics(workdir)
    documented = {"step", "loss", "learning_rate", "clips_per_second", "input_wait", "grad_norm", "skipped", "accuracy"}
    assert all(documented <= set(line) for line in lines if "loss" in line)
    evaluations = [line for line in lines if "eval_top1" in line]
    assert [line["step"] for line in evaluations] == [5, NUM_STEPS]  # every 4 epochs of 20 records, batch size 16
    assert all(line["eval_videos"] == NUM_VAL for line in evaluations)
    assert json.loads((workdir / "heartbeat.json").read_text())["step"] == NUM_STEPS
    assert list(workdir.glob("events.out.tfevents*"))


def test_restarting_a_finished_run_changes_nothing(training_data, finished_run, tmp_path, capsys):
    workdir = shutil.copytree(finished_run[0], tmp_path / "again")
    metrics_before, params_before = (workdir / "metrics.jsonl").read_bytes(), newest_checkpoint(workdir)[1]
    summary = run(training_data, workdir)
    assert f"finished at step {NUM_STEPS}" in capsys.readouterr().out
    assert (workdir / "metrics.jsonl").read_bytes() == metrics_before
    jax.tree.map(np.testing.assert_array_equal, newest_checkpoint(workdir)[1], params_before)
    last_line = read_metrics(workdir)[-1]
    assert {f"eval_{name}": value for name, value in summary.items()} | {"step": NUM_STEPS} == last_line


def test_a_preempted_run_resumed_on_the_same_mesh_ends_bitwise_equal(
    training_data, finished_run, preempted_run, tmp_path
):
    workdir = shutil.copytree(preempted_run[0], tmp_path / "resumed")
    run(training_data, workdir)
    assert read_losses(workdir) == read_losses(finished_run[0])
    jax.tree.map(np.testing.assert_array_equal, newest_checkpoint(workdir), newest_checkpoint(finished_run[0]))


def test_a_preempted_run_skips_a_due_evaluation(training_data, tmp_path):
    # The loop checks for a notice twice before the first step, after every step and after every evaluation batch.
    with pytest.raises(train.Preempted), preemption_at(7):
        run(training_data, tmp_path)
    assert newest_checkpoint(tmp_path)[0] == 5
    assert not [line for line in read_metrics(tmp_path) if "eval_top1" in line]


def test_an_interrupted_evaluation_is_repeated_once_after_the_restart(training_data, finished_run, tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(train.Preempted), preemption_at(8):  # after the first of two evaluation batches
        run(training_data, workdir)
    assert newest_checkpoint(workdir)[0] == 5
    assert not [line for line in read_metrics(workdir) if "eval_top1" in line]
    with pytest.raises(train.Preempted), preemption_at(3):  # after both evaluation batches, before compilation
        run(training_data, workdir)
    with pytest.raises(train.Preempted), preemption_at(1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.evaluate, "compute_logits", None)  # fails if the evaluation runs again
        run(training_data, workdir)
    run(training_data, workdir)
    assert reproducible_metrics(workdir) == reproducible_metrics(finished_run[0])


def test_the_best_checkpoint_can_be_one_that_is_evaluated_after_a_restart(training_data, tmp_path):
    with pytest.raises(train.Preempted), preemption_at(7):  # before the evaluation of step 5
        run(training_data, tmp_path)
    with pytest.raises(train.Preempted), preemption_at(3):  # after the evaluation
        run(training_data, tmp_path)
    (evaluation,) = [line for line in read_metrics(tmp_path) if "eval_top1" in line]
    with closing(Checkpoints(tmp_path, 3, "top1")) as checkpoints:
        assert {f"eval_{name}": value for name, value in checkpoints.metrics(5).items()} | {"step": 5} == evaluation


def test_an_error_in_an_evaluation_loses_no_step(training_data, finished_run, tmp_path, monkeypatch):
    def fail(*_):
        raise UserError("too many bad records")

    with pytest.raises(UserError, match="too many bad records"), monkeypatch.context() as patch:
        patch.setattr(train.evaluate, "compute_logits", fail)
        run(training_data, tmp_path)
    assert newest_checkpoint(tmp_path)[0] == 5
    run(training_data, tmp_path)
    assert reproducible_metrics(tmp_path) == reproducible_metrics(finished_run[0])


def test_an_evaluation_that_does_not_fit_into_memory_names_its_batch_size(training_data, tmp_path, monkeypatch):
    def fail(*_):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 GiB")

    monkeypatch.setattr(train.evaluate, "compute_logits", fail)
    with pytest.raises(memory.TooLarge, match=r"the evaluation does not fit into .*: reduce eval\.batch_size"):
        run(training_data, tmp_path)


def test_a_missing_list_of_the_evaluation_is_an_error_before_the_first_step(training_data, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "compile_step", None)
    with pytest.raises(UserError, match=r"eval.video_lists: none.txt does not exist"):
        run(training_data, tmp_path, eval__video_lists="none.txt")


def test_settings_can_change_after_a_preemption_before_the_first_step(training_data, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "compile_step", None)
    for seed in (0, 1):
        with pytest.raises(train.Preempted) as preempted, preemption_at(1):
            run(training_data, tmp_path, seed=seed)
        assert preempted.value.code == 75
        assert read_run_metadata(tmp_path).config["seed"] == seed


def test_a_preempted_run_logs_its_last_steps(training_data, tmp_path):
    with pytest.raises(train.Preempted), preemption_at(5):
        run(training_data, tmp_path, log__every_steps=2)
    assert [line["step"] for line in read_metrics(tmp_path)] == [2, 3]
    assert newest_checkpoint(tmp_path)[0] == 3


def test_a_preempted_run_says_that_a_step_is_saved_only_once_it_is():
    def fail():
        raise UserError("the disk is full")

    messages = []
    logger, checkpoints = SimpleNamespace(info=messages.append), SimpleNamespace(wait=fail)
    trainer = train.Trainer(None, None, None, checkpoints, logger, None, None)
    with pytest.raises(UserError, match="the disk is full"):
        trainer.stop(3)
    assert not messages
    checkpoints.wait = lambda: None
    with pytest.raises(train.Preempted):
        trainer.stop(3)
    assert messages == ["preempted: step 3 is saved; run the same command again to resume"]


def test_evaluation_of_a_run_accepts_only_the_init_from_of_its_training(training_data, finished_run, tmp_path):
    workdir = shutil.copytree(finished_run[0], tmp_path / "run")
    metadata = read_run_metadata(workdir)
    write_run_metadata(workdir, dataclasses.replace(metadata, config=metadata.config | {"init_from": "runs/first"}))
    config = make_config(training_data, init_from="runs/other")
    with pytest.raises(UserError, match=r"contains a training run, but config.init_from=runs/other is set"):
        evaluate(config, str(workdir), make_mesh(config.mesh), "again")
    config.init_from = "runs/first"
    assert evaluate(config, str(workdir), make_mesh(config.mesh), "again")["videos"] == NUM_VAL


def test_evaluation_without_a_training_run_says_which_weights_it_evaluates(
    training_data, finished_run, tmp_path, capsys
):
    workdir, _ = finished_run
    config = make_config(training_data, init_from=str(workdir))
    evaluate(config, str(tmp_path), make_mesh(config.mesh), "evaluate")
    line = f"{tmp_path} contains no training run: evaluating config.init_from={workdir}"
    assert capsys.readouterr().out.splitlines()[0] == line


def test_evaluation_with_another_network_is_refused(training_data, finished_run):
    workdir, _ = finished_run
    config = make_config(training_data, SINGLE_DEVICE, model__network="linear_probe")
    with pytest.raises(UserError, match=r"model network is linear_probe \(workdir: dist\)"):
        evaluate(config, str(workdir), make_mesh(config.mesh, jax.devices()[:1]), "probe")


def test_novel_classes_must_not_contain_base_classes(training_data, finished_run, tmp_path):
    workdir, _ = finished_run
    metadata = read_run_metadata(workdir)  # as written by a training on two of the five classes
    metadata.config["data"]["classes_file"] = "base.txt"
    write_run_metadata(tmp_path, dataclasses.replace(metadata, class_names={"label": ["push", "pull"]}))
    (tmp_path / "novel.txt").write_text("lift\npull\n")
    config = make_config(training_data, SINGLE_DEVICE, data__classes_file=str(tmp_path / "novel.txt"))
    with pytest.raises(UserError, match=r"1 of 2 classes are among those of the training: pull; base and novel"):
        evaluate(config, str(tmp_path), make_mesh(config.mesh, jax.devices()[:1]), "novel")


@pytest.mark.parametrize(("epochs", "steps", "setting"), [(6.0, 0, "epochs"), (36.0, 120, "steps")])
def test_a_warmup_as_long_as_the_training_is_refused(epochs, steps, setting):
    config = settings.defaults()
    config.batch_size, config.epochs, config.steps = 50, epochs, steps
    message = (
        "optimizer.warmup_epochs=6 is not less than the 6 epochs of this training; set optimizer.warmup_epochs to "
        f"less, e.g. 1, or {setting} to more$"
    )
    with pytest.raises(UserError, match=message):
        StepPlan(config, 1000)
    config.optimizer.warmup_epochs = 1.0
    plan = StepPlan(config, 1000)
    assert max(float(plan.lr_schedule(step)) for step in range(plan.num_steps)) > 0.9 * config.optimizer.learning_rate


def test_find_batch_prints_the_largest_valid_batch_size(training_data, monkeypatch, capsys):
    def compile_step(train_step, experiment, state):
        if train_step.config.batch_size > 100:
            raise memory.TooLarge("too large")
        return train_step.config.batch_size

    monkeypatch.setattr(batch_search, "compile_step", compile_step)
    monkeypatch.setattr(memory, "step_memory", lambda batch_size: memory.StepMemory(batch_size, 0, 0))
    monkeypatch.setattr(memory, "device_limit", lambda: 2**40)
    config = make_config(training_data)
    config.mix.group_size = 32
    assert find_batch.find_batch(config, make_mesh(config.mesh)) == 96
    output = capsys.readouterr().out
    assert "batch_size=128: does not fit (reported by the compiler)" in output
    assert "largest batch_size that fits into 1024.00 GiB: 96 (to within 1/16)" in output


@pytest.mark.parametrize("mesh_shape", [SINGLE_DEVICE, ALL_AXES])
def test_a_run_resumed_on_another_mesh_has_the_same_losses(
    mesh_shape, training_data, finished_run, preempted_run, tmp_path
):
    workdir = shutil.copytree(preempted_run[0], tmp_path / "resumed")
    run(training_data, workdir, mesh_shape)
    losses, expected_losses = read_losses(workdir), read_losses(finished_run[0])
    np.testing.assert_allclose(list(losses.values()), list(expected_losses.values()), rtol=1e-5)
    first_columns = lambda table: [row[:2] for row in table]
    assert first_columns(read_results(workdir, "val")) == first_columns(read_results(finished_run[0], "val"))


def read_results(workdir, name) -> list[list[str]]:
    """The rows of results/NAME.csv, with the header."""
    return [line.split(",") for line in (workdir / "results" / f"{name}.csv").read_text().splitlines()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed is 1 .workdir: 0."),
        ({"batch_size": 32}, "batch_size is 32 .workdir: 16."),
        ({"model__temporal_width": 16}, "model temporal_width is 16 .workdir: 8."),
        ({"backbone__weights": "{folder}/other"}, "the backbone is .*/other .* .workdir: .*/clip "),
        ({"data__class_names_file": "{folder}/other.txt"}, "class 1 is 'draw' .workdir: 'pull'."),
    ],
)
def test_a_workdir_of_a_different_run_is_refused(changes, message, training_data, preempted_run, tmp_path):
    training_run.save_clip(tmp_path / "other", seed=1)
    (tmp_path / "other.txt").write_text("push\ndraw\nlift\nturn\nfold\n")
    changes = {
        name: value.format(folder=tmp_path) if isinstance(value, str) else value for name, value in changes.items()
    }
    with pytest.raises(UserError, match=message):
        run(training_data, preempted_run[0], **changes)


@pytest.mark.parametrize(
    ("poll", "message"),
    [
        (5, r"^at step 5 the loss \(nan\) or its gradient .* is not finite; the update was dropped"),
        (6, r"^at step 5 the scores of 11 of 11 videos are NaN or infinite; delete the checkpoint of this step"),
    ],
)
def test_a_diverged_run_stops_and_keeps_earlier_checkpoints(poll, message, training_data, tmp_path):
    with pytest.raises(train.Preempted), preemption_at(poll):
        run(training_data, tmp_path)
    step, _ = newest_checkpoint(tmp_path)
    assert step == poll - 2
    # The loss of the next step is finite. Its update is not useful: the loss after it is NaN, and so are all scores.
    with pytest.raises(UserError, match=message):
        run(training_data, tmp_path, optimizer__learning_rate=1e30, checkpoint__save_every_steps=1)
    saved_steps = sorted(int(folder.name) for folder in (tmp_path / "checkpoints").iterdir())
    assert saved_steps[-2:] == [step, step + 1]


@pytest.mark.parametrize(("batch_size", "mesh_shape"), [(8, DATA_PARALLEL), (4, ALL_AXES), (11, SINGLE_DEVICE)])
def test_every_video_is_evaluated_once_at_any_batch_size_and_mesh(batch_size, mesh_shape, training_data, finished_run):
    workdir, _ = finished_run
    config = make_config(training_data, mesh_shape, eval__batch_size=batch_size)
    mesh = make_mesh(config.mesh, jax.devices()[: np.prod(mesh_shape)])
    name = f"batches-of-{batch_size}"
    summary = evaluate(config, str(workdir), mesh, name)
    assert summary["videos"] == NUM_VAL
    report = json.loads((workdir / "results" / f"{name}.json").read_text())
    assert np.sum(report["confusion"]) == NUM_VAL
    rows, expected_rows = read_results(workdir, name), read_results(workdir, "val")
    order = [*range(0, NUM_VAL, 2), *range(1, NUM_VAL, 2)]  # records are written round robin to two shards
    assert [row[0] for row in rows[1:]] == [f"{NUM_TRAIN + record}.mp4" for record in order]
    scores = lambda table: np.array([[float(cell) for cell in row[3::2]] for row in table[1:]])
    np.testing.assert_allclose(scores(rows), scores(expected_rows), atol=2e-4)  # the file has four decimals
    np.testing.assert_allclose(scores(rows).sum(axis=1), 1.0, atol=1e-3)


def test_a_run_killed_at_random_times_ends_bitwise_equal(training_data, tmp_path):
    soak = subprocess.run(
        [
            *(sys.executable, "-m", "scripts.soak", f"--workdir={tmp_path / 'soak'}", "--kills=2", "--"),
            *(f"--config=tests/helpers/training_run.py:{training_data}", "--config.steps=30"),
        ],
        cwd=training_run.ROOT,
        env={name: value for name, value in training_run.environment().items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert soak.returncode == 0, soak.stdout + soak.stderr
    assert soak.stdout.count("killed") == 2
    assert re.search(r"both runs end with bitwise equal parameters and the same \d+ metrics lines", soak.stdout)
