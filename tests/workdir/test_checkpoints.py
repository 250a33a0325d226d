"""Checkpoints: saved states are restored exactly, and an interrupted save leaves no partial checkpoint."""

import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dist_jax.errors import UserError
from dist_jax.workdir.checkpoints import Checkpoints, load_params
from dist_jax.workdir.train_state import TrainState


def state_at(step: int, ema: bool = False, size: int = 8) -> TrainState:
    """A state whose arrays all depend on the step."""
    params = {"layers": {"kernel": jnp.arange(float(size)).reshape(size // 4, 4) + step}, "proj": jnp.full((3,), step)}
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    moments = (jax.tree.map(lambda leaf: leaf / 7, params), jnp.asarray(step, jnp.int32))
    average = jax.tree.map(lambda leaf: leaf / 3, params) if ema else None
    return TrainState(jnp.asarray(step, jnp.int32), params, moments, average)


def abstract(state: TrainState, sharding) -> TrainState:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)


def save(workdir, steps, max_to_keep=3, best_metric="top1", metrics=lambda step: None):
    checkpoints = Checkpoints(workdir, max_to_keep, best_metric)
    for step in steps:
        checkpoints.save(step, state_at(step), metrics(step))
    checkpoints.close()


def saved_steps(workdir) -> list[int]:
    return sorted(int(folder.name) for folder in (workdir / "checkpoints").iterdir() if folder.name.isdigit())


@pytest.mark.parametrize("ema", [False, True])
def test_a_state_is_restored_exactly_on_other_devices(tmp_path, ema):
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    sharded = jax.device_put(state_at(5, ema), NamedSharding(mesh, PartitionSpec()))
    kernel = NamedSharding(mesh, PartitionSpec("x", "y"))
    sharded.params["layers"]["kernel"] = jax.device_put(sharded.params["layers"]["kernel"], kernel)
    checkpoints = Checkpoints(tmp_path, 3, "")
    assert checkpoints.latest is None
    checkpoints.save(5, sharded)
    checkpoints.wait()
    one_device = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    restored = checkpoints.restore(checkpoints.latest, abstract(state_at(0, ema), one_device))
    checkpoints.close()
    assert jax.tree.structure(restored) == jax.tree.structure(state_at(5, ema))
    jax.tree.map(np.testing.assert_array_equal, restored, state_at(5, ema))
    assert all(leaf.sharding == one_device for leaf in jax.tree.leaves(restored))


def test_the_newest_and_the_best_checkpoints_are_kept_across_restarts(tmp_path):
    scores = {1: 0.1, 2: 0.9, 3: 0.5}
    metrics_of = lambda step: {"top1": scores[step]} if step in scores else None
    save(tmp_path, [1, 2, 3], max_to_keep=2, metrics=metrics_of)
    assert saved_steps(tmp_path) == [2, 3]
    save(tmp_path, [4, 5, 6], max_to_keep=2, metrics=metrics_of)
    assert saved_steps(tmp_path) == [2, 5, 6]
    assert [load_params(tmp_path)[0], load_params(tmp_path, "top1")[0]] == [6, 2]
    checkpoints = Checkpoints(tmp_path, 2, "top1")
    assert checkpoints.metrics(2) == {"top1": 0.9}
    assert checkpoints.metrics(6) is None
    checkpoints.close()


def test_a_checkpoint_that_is_evaluated_after_its_save_can_be_the_best(tmp_path):
    save(tmp_path, [1, 2], max_to_keep=1, metrics=lambda step: {"top1": 0.5} if step == 1 else None)
    checkpoints = Checkpoints(tmp_path, 1, "top1")
    checkpoints.add_metrics(2, {"top1": 0.75})
    checkpoints.add_metrics(2, {"top1": 0.25})  # the first evaluation stays
    for step in (3, 4):
        checkpoints.save(step, state_at(step))
    checkpoints.close()
    assert saved_steps(tmp_path) == [2, 4]
    step, params = load_params(tmp_path, "top1")
    assert step == 2
    np.testing.assert_array_equal(params["proj"], np.full(3, 2.0))


def test_the_newest_of_equally_good_checkpoints_is_loaded(tmp_path):
    save(tmp_path, [1, 2, 3], metrics=lambda step: {"top1": 0.25 if step == 3 else 0.5})
    assert load_params(tmp_path, "top1")[0] == 2


def test_without_a_best_metric_only_the_newest_checkpoints_are_kept(tmp_path):
    save(tmp_path, [1, 2, 3, 4], max_to_keep=2, best_metric="", metrics=lambda step: {"top1": 1.0 / step})
    assert saved_steps(tmp_path) == [3, 4]


def test_a_saved_step_is_not_overwritten(tmp_path):
    save(tmp_path, [3])
    checkpoints = Checkpoints(tmp_path, 3, "")
    checkpoints.save(3, state_at(4))
    checkpoints.close()
    np.testing.assert_array_equal(load_params(tmp_path)[1]["proj"], np.full(3, 3.0))


def test_the_state_of_the_log_is_saved_with_a_step(tmp_path):
    save(tmp_path, [3])  # as dist_jax 0.2 saved it, without a log
    log_state = {"line_step": 4, "sums": {"loss": 0.1 + 0.2}, "bad_records": [[7, "image"]]}
    checkpoints = Checkpoints(tmp_path, 3, "")
    checkpoints.save(6, state_at(6), log_state=log_state)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, 3, "")
    assert (checkpoints.log_state(3), checkpoints.log_state(6)) == (None, log_state)
    checkpoints.close()
    assert load_params(tmp_path)[0] == 6


def test_load_params_prefers_the_moving_average(tmp_path):
    checkpoints = Checkpoints(tmp_path, 3, "")
    checkpoints.save(6, state_at(6, ema=True))
    checkpoints.close()
    step, params = load_params(tmp_path)
    assert step == 6
    np.testing.assert_array_equal(params["proj"], np.full(3, 2.0))


def test_a_workdir_without_a_complete_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no checkpoints .* is missing"):
        load_params(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="has no complete checkpoint yet"):
        load_params(tmp_path)


def test_a_partial_checkpoint_is_ignored_and_removed(tmp_path):
    save(tmp_path, [3])
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "3", folder / "6.orbax-checkpoint-tmp")
    shutil.rmtree(folder / "6.orbax-checkpoint-tmp" / "params")
    assert load_params(tmp_path)[0] == 3
    checkpoints = Checkpoints(tmp_path, 3, "")
    assert checkpoints.latest == 3
    checkpoints.save(6, state_at(6))
    checkpoints.close()
    assert sorted(file.name for file in folder.iterdir()) == ["3", "6"]
    np.testing.assert_array_equal(load_params(tmp_path)[1]["proj"], np.full(3, 6.0))


@pytest.mark.parametrize("largest_file", [0, 100_000], ids=["no file can be written", "the arrays cannot be written"])
def test_a_checkpoint_that_cannot_be_written_is_an_error_with_one_line(tmp_path, largest_file):
    command = [sys.executable, "-c", SAVE_WITH_LIMIT, str(tmp_path), str(largest_file)]
    process = subprocess.run(command, env=environment(), capture_output=True, text=True)
    errors = [line for line in process.stdout.splitlines() if line.startswith("UserError: ")]
    assert errors, process.stdout + process.stderr
    assert f"{tmp_path}/checkpoints: a checkpoint cannot be written (" in errors[0]
    assert "File too large" in errors[0]
    assert "other error" not in process.stdout


SAVE_WITH_LIMIT = """
import resource, signal, sys
from test_checkpoints import Checkpoints, UserError, state_at
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Checkpoints(sys.argv[1], 2, "")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
for action in (lambda: checkpoints.save(1, state_at(1, size=1 << 20)), checkpoints.wait, checkpoints.close):
    try:
        action()
    except UserError as error:
        print("UserError:", error)
    except Exception as error:
        print("other error:", error)
"""


def environment() -> dict[str, str]:
    """Environment variables of a process that imports this file."""
    path = os.pathsep.join([os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([path, os.environ.get("PYTHONPATH", "")])}


SAVE_FOREVER = """
import sys
from test_checkpoints import Checkpoints, state_at
checkpoints = Checkpoints(sys.argv[1], 2, "")
for step in range(1, 1000):
    checkpoints.save(step, state_at(step, size=1 << 22))
"""


def test_a_kill_during_a_save_leaves_the_previous_checkpoint(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, str(tmp_path)], env=environment())
    folder = tmp_path / "checkpoints"
    saving = lambda: folder.is_dir() and any("tmp" in file.name for file in folder.iterdir()) and saved_steps(tmp_path)
    while process.poll() is None and not saving():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    step, params = load_params(tmp_path)
    assert step == saved_steps(tmp_path)[-1]
    jax.tree.map(np.testing.assert_array_equal, params, state_at(step, size=1 << 22).params)
    checkpoints = Checkpoints(tmp_path, 2, "")
    expected = state_at(step, size=1 << 22)
    restored = checkpoints.restore(
        checkpoints.latest, abstract(expected, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    )
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, restored, expected)
