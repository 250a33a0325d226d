"""Training as a whole: stopped, resumed, on other meshes, refused, and evaluated."""

import contextlib
import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import training_run
from helpers.training_run import CUBE, EIGHT, ONE, STEPS, configured, losses, metrics, newest, run

from dist_jax import config as settings
from dist_jax.distributed import preemption, sharding
from dist_jax.distributed.mesh import make_mesh
from dist_jax.errors import UserError
from dist_jax.evaluation.evaluate import evaluate
from dist_jax.training import find_batch, memory, train
from dist_jax.training.step_plan import StepPlan
from dist_jax.weights import clip as clip_weights
from dist_jax.workdir.run_metadata import read_run_metadata, write_run_metadata

TIMED = ("clips_per_second", "input_wait")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


def test_it_trains_and_leaves_the_backbone_as_it_was(training_data, undisturbed):
    workdir, frozen = undisturbed
    assert newest(workdir)[0] == STEPS
    found = losses(workdir)
    assert len(found) == STEPS
    assert np.all(np.isfinite(list(found.values())))
    loaded = clip_weights.load(str(training_data / "clip")).params
    assert set(frozen) == {"vision", "logit_scale"}
    jax.tree.map(np.testing.assert_array_equal, frozen, {name: loaded[name] for name in frozen})


def test_a_checkpoint_holds_nothing_of_the_backbone(undisturbed):
    workdir, _ = undisturbed
    step, params = newest(workdir)
    names = {sharding.path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]}
    assert not any(name.startswith(("vision", "text", "blocks")) or "/blocks/" in name for name in names)
    folder = workdir / "checkpoints" / str(step)
    assert {file.name for file in folder.iterdir() if file.is_dir()} == {"params", "opt_state", "step", "metrics"}


def test_metrics_say_what_is_promised_at_every_step(undisturbed):
    workdir, _ = undisturbed
    lines = metrics(workdir)
    promised = {"step", "loss", "learning_rate", "clips_per_second", "input_wait", "grad_norm", "skipped", "accuracy"}
    assert all(promised <= set(line) for line in lines if "loss" in line)
    evaluations = [line for line in lines if "eval_top1" in line]
    assert [line["step"] for line in evaluations] == [5, STEPS]  # every 4 epochs of 20 records, 16 a step
    assert all(line["eval_videos"] == training_run.VAL for line in evaluations)
    assert json.loads((workdir / "heartbeat.json").read_text())["step"] == STEPS
    assert list(workdir.glob("events.out.tfevents*"))


def test_started_again_a_finished_run_changes_nothing(training_data, undisturbed, tmp_path, capsys):
    workdir = shutil.copytree(undisturbed[0], tmp_path / "again")
    before = (workdir / "metrics.jsonl").read_bytes(), newest(workdir)[1]
    summary = run(training_data, workdir)
    assert f"finished at step {STEPS}" in capsys.readouterr().out
    assert (workdir / "metrics.jsonl").read_bytes() == before[0]
    jax.tree.map(np.testing.assert_array_equal, newest(workdir)[1], before[1])
    last = metrics(workdir)[-1]
    assert {f"eval_{name}": value for name, value in summary.items()} == {k: v for k, v in last.items() if k != "step"}


def test_stopped_and_resumed_on_the_same_mesh_it_ends_the_same_bit_for_bit(
    training_data, undisturbed, stopped, tmp_path
):
    workdir = shutil.copytree(stopped[0], tmp_path / "resumed")
    run(training_data, workdir)
    assert losses(workdir) == losses(undisturbed[0])
    jax.tree.map(np.testing.assert_array_equal, newest(workdir), newest(undisturbed[0]))


@contextlib.contextmanager
def preempted_at(call: int):
    """The preemption notice arrives at this call of the loop, counted from 1."""

    class PreemptionNotice(preemption.PreemptionNotice):
        calls = 0

        def requested(self):
            self.calls += 1
            self.received = self.received or self.calls == call
            return self.received

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preemption, "PreemptionNotice", PreemptionNotice)
        yield


def test_a_notice_before_an_evaluation_does_not_wait_for_it(training_data, tmp_path):
    with pytest.raises(train.Preempted), preempted_at(7):  # twice before the first step, then at every step and batch
        run(training_data, tmp_path)
    assert newest(tmp_path)[0] == 5
    assert not [line for line in metrics(tmp_path) if "eval_top1" in line]


def test_an_evaluation_that_a_notice_cut_short_is_made_up_for_once(training_data, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(train.Preempted), preempted_at(8):  # after the first of its two batches
        run(training_data, workdir)
    assert newest(workdir)[0] == 5
    assert not [line for line in metrics(workdir) if "eval_top1" in line]
    with pytest.raises(train.Preempted), preempted_at(3):  # after the two batches of the evaluation, before compiling
        run(training_data, workdir)
    with pytest.raises(train.Preempted), preempted_at(1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.evaluate, "score_videos", None)
        run(training_data, workdir)
    run(training_data, workdir)
    untimed = lambda of: [{k: v for k, v in line.items() if k not in TIMED} for line in metrics(of)]
    assert untimed(workdir) == untimed(undisturbed[0])


def test_a_notice_before_the_first_step_is_heard_and_settings_may_still_change(training_data, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "compile_step", None)
    for seed in (0, 1):
        with pytest.raises(train.Preempted) as left, preempted_at(1):
            run(training_data, tmp_path, seed=seed)
        assert left.value.code == 75
        assert read_run_metadata(tmp_path).config["seed"] == seed


def test_what_was_logged_of_a_run_that_is_stopped_is_complete(training_data, tmp_path):
    with pytest.raises(train.Preempted), preempted_at(5):
        run(training_data, tmp_path, log__every_steps=2)
    assert [line["step"] for line in metrics(tmp_path)] == [2, 3]
    assert newest(tmp_path)[0] == 3


def test_an_evaluation_may_name_what_the_run_began_with(training_data, undisturbed, tmp_path):
    workdir = shutil.copytree(undisturbed[0], tmp_path / "run")
    run_of = read_run_metadata(workdir)
    write_run_metadata(workdir, dataclasses.replace(run_of, config=run_of.config | {"init_from": "runs/first"}))
    config = configured(training_data, init_from="runs/other")
    with pytest.raises(UserError, match=r"holds a training run, and config.init_from=runs/other is given: choose one"):
        evaluate(config, str(workdir), make_mesh(config.mesh), "again")
    config.init_from = "runs/first"
    assert evaluate(config, str(workdir), make_mesh(config.mesh), "again")["videos"] == training_run.VAL


@pytest.mark.parametrize(("epochs", "steps", "name"), [(6.0, 0, "epochs"), (36.0, 120, "steps")])
def test_a_warmup_as_long_as_the_training_is_refused(epochs, steps, name):
    config = settings.defaults()
    config.batch_size, config.epochs, config.steps = 50, epochs, steps
    length = r"6 epochs of this training; set optimizer.warmup_epochs to less, e.g. 1, or " + f"{name} to more$"
    with pytest.raises(UserError, match=r"optimizer.warmup_epochs=6 is not less than the " + length):
        StepPlan(config, 1000)
    config.optimizer.warmup_epochs = 1.0
    plan = StepPlan(config, 1000)
    assert max(float(plan.learning_rate(step)) for step in range(plan.num_steps)) > 0.9 * config.optimizer.learning_rate


def test_the_search_for_a_batch_size_tries_what_can_be(training_data, monkeypatch, capsys):
    def compiled(trainer, experiment, state):
        if trainer.config.batch_size > 100:
            raise memory.TooLarge("too large")
        return trainer.config.batch_size

    monkeypatch.setattr(find_batch, "compile_step", compiled)
    monkeypatch.setattr(memory, "step_memory", lambda size: memory.StepMemory(size, 0, 0))
    monkeypatch.setattr(memory, "device_limit", lambda: 2**40)
    config = configured(training_data)
    config.mix.group_size = 32
    assert find_batch.find_batch(config, make_mesh(config.mesh)) == 96
    said = capsys.readouterr().out
    assert "batch_size=128: does not fit (reported by the compiler)" in said
    assert "largest batch_size that fits into 1024.00 GiB: 96 (to within 1/16)" in said


@pytest.mark.parametrize("shape", [ONE, CUBE])
def test_resumed_on_another_mesh_it_goes_on_with_the_same_losses(shape, training_data, undisturbed, stopped, tmp_path):
    workdir = shutil.copytree(stopped[0], tmp_path / "resumed")
    run(training_data, workdir, shape)
    found, expected = losses(workdir), losses(undisturbed[0])
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5)
    videos = [(path / "results" / "val.csv").read_text() for path in (workdir, undisturbed[0])]
    assert [line.split(",")[:2] for line in videos[0].splitlines()] == [
        line.split(",")[:2] for line in videos[1].splitlines()
    ]


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
def test_a_workdir_of_another_run_is_refused(changes, message, training_data, stopped, tmp_path):
    training_run.save_clip(tmp_path / "other", seed=1)
    (tmp_path / "other.txt").write_text("push\ndraw\nlift\nturn\nfold\n")
    changes = {
        name: value.format(folder=tmp_path) if isinstance(value, str) else value for name, value in changes.items()
    }
    with pytest.raises(UserError, match=message):
        run(training_data, stopped[0], **changes)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(training_data, stopped, tmp_path):
    workdir = shutil.copytree(stopped[0], tmp_path / "resumed")
    before = newest(workdir)
    changes = {"optimizer__learning_rate": 1e30, "checkpoint__save_every_steps": 1}
    with pytest.raises(UserError, match=rf"at step {before[0] + 2} the loss \(nan\) or its gradient .* is not finite"):
        run(training_data, workdir, **changes)
    folder = workdir / "checkpoints"
    kept = sorted(int(file.name) for file in folder.iterdir())
    assert before[0] in kept
    assert max(kept) == before[0] + 1  # the last step whose loss was finite


@pytest.mark.parametrize(("batch_size", "shape"), [(8, EIGHT), (4, CUBE), (11, ONE)])
def test_every_video_is_evaluated_once_whatever_the_batch(batch_size, shape, training_data, undisturbed):
    workdir, _ = undisturbed
    config = configured(training_data, shape, eval__batch_size=batch_size)
    mesh = make_mesh(config.mesh, jax.devices()[: np.prod(shape)])
    summary = evaluate(config, str(workdir), mesh, f"batches-of-{batch_size}")
    assert summary["videos"] == training_run.VAL
    results = workdir / "results"
    report = json.loads((results / f"batches-of-{batch_size}.json").read_text())
    assert np.sum(report["confusion"]) == training_run.VAL
    rows = [line.split(",") for line in (results / f"batches-of-{batch_size}.csv").read_text().splitlines()]
    expected = [line.split(",") for line in (results / "val.csv").read_text().splitlines()]
    assert [row[0] for row in rows[1:]] == [f"{training_run.TRAIN + n}.mp4" for n in video_order()]
    numbers = lambda table: np.array([[float(cell) for cell in row[3::2]] for row in table[1:]])
    np.testing.assert_allclose(numbers(rows), numbers(expected), atol=2e-4)  # the file has four decimals
    np.testing.assert_allclose(numbers(rows).sum(axis=1), 1.0, atol=1e-3)


def video_order() -> list[int]:
    """Records in the order of shards: what was dealt out round robin to two."""
    return [*range(0, training_run.VAL, 2), *range(1, training_run.VAL, 2)]


def test_killed_at_random_moments_it_ends_the_same(training_data, tmp_path):
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
    assert "both runs end with bitwise equal parameters and the same metrics" in soak.stdout
