"""A workdir gives back the state that was put into it, whole or not at all."""

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
    """A state whose every number tells its step."""
    params = {"layers": {"kernel": jnp.arange(float(size)).reshape(size // 4, 4) + step}, "proj": jnp.full((3,), step)}
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    moments = (jax.tree.map(lambda leaf: leaf / 7, params), jnp.asarray(step, jnp.int32))
    average = jax.tree.map(lambda leaf: leaf / 3, params) if ema else None
    return TrainState(jnp.asarray(step, jnp.int32), params, moments, average)


def like(state: TrainState, sharding) -> TrainState:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)


def save(workdir, steps, keep=3, best="top1", metrics=lambda step: None):
    checkpoints = Checkpoints(workdir, keep, best)
    for step in steps:
        checkpoints.save(step, state_at(step), metrics(step))
    checkpoints.close()


def saved(workdir) -> list[int]:
    return sorted(int(folder.name) for folder in (workdir / "checkpoints").iterdir() if folder.name.isdigit())


@pytest.mark.parametrize("ema", [False, True])
def test_a_state_comes_back_bit_for_bit_on_other_devices(tmp_path, ema):
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spread = jax.device_put(state_at(5, ema), NamedSharding(mesh, PartitionSpec()))
    kernel = NamedSharding(mesh, PartitionSpec("x", "y"))
    spread.params["layers"]["kernel"] = jax.device_put(spread.params["layers"]["kernel"], kernel)
    checkpoints = Checkpoints(tmp_path, 3, "")
    assert checkpoints.latest is None
    checkpoints.save(5, spread)
    checkpoints.wait()
    one_device = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    found = checkpoints.restore(checkpoints.latest, like(state_at(0, ema), one_device))
    checkpoints.close()
    assert jax.tree.structure(found) == jax.tree.structure(state_at(5, ema))
    jax.tree.map(np.testing.assert_array_equal, found, state_at(5, ema))
    assert all(leaf.sharding == one_device for leaf in jax.tree.leaves(found))


def test_the_newest_and_the_best_are_kept_even_over_a_restart(tmp_path):
    score = {1: 0.1, 2: 0.9, 3: 0.5}
    of = lambda step: {"top1": score[step]} if step in score else None
    save(tmp_path, [1, 2, 3], keep=2, metrics=of)
    assert saved(tmp_path) == [2, 3]
    save(tmp_path, [4, 5, 6], keep=2, metrics=of)
    assert saved(tmp_path) == [2, 5, 6]
    assert [load_params(tmp_path)[0], load_params(tmp_path, "top1")[0]] == [6, 2]
    checkpoints = Checkpoints(tmp_path, 2, "top1")
    assert checkpoints.metrics(2) == {"top1": 0.9}
    assert checkpoints.metrics(6) is None
    checkpoints.close()


def test_without_a_metric_only_the_newest_are_kept(tmp_path):
    save(tmp_path, [1, 2, 3, 4], keep=2, best="", metrics=lambda step: {"top1": 1.0 / step})
    assert saved(tmp_path) == [3, 4]


def test_a_step_that_is_saved_is_not_saved_again(tmp_path):
    save(tmp_path, [3])
    checkpoints = Checkpoints(tmp_path, 3, "")
    checkpoints.save(3, state_at(4))
    checkpoints.close()
    np.testing.assert_array_equal(load_params(tmp_path)[1]["proj"], np.full(3, 3.0))


def test_the_average_is_what_a_workdir_gives_where_there_is_one(tmp_path):
    checkpoints = Checkpoints(tmp_path, 3, "")
    checkpoints.save(6, state_at(6, ema=True))
    checkpoints.close()
    step, params = load_params(tmp_path)
    assert step == 6
    np.testing.assert_array_equal(params["proj"], np.full(3, 2.0))


def test_a_workdir_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint of a training run"):
        load_params(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds no whole checkpoint yet"):
        load_params(tmp_path)


def test_what_a_kill_left_of_a_save_is_passed_over_and_removed(tmp_path):
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


SAVES_FOREVER = """
import sys
from test_checkpoints import Checkpoints, state_at
checkpoints = Checkpoints(sys.argv[1], 2, "")
for step in range(1, 1000):
    checkpoints.save(step, state_at(step, size=1 << 22))
"""


def test_a_kill_inside_of_a_save_leaves_the_one_before(tmp_path):
    path = os.pathsep.join([os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))])
    process = subprocess.Popen(
        [sys.executable, "-c", SAVES_FOREVER, str(tmp_path)], env={**os.environ, "PYTHONPATH": path}
    )
    folder = tmp_path / "checkpoints"
    inside = lambda: folder.is_dir() and any("tmp" in file.name for file in folder.iterdir()) and saved(tmp_path)
    while process.poll() is None and not inside():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    step, params = load_params(tmp_path)
    assert step == saved(tmp_path)[-1]
    jax.tree.map(np.testing.assert_array_equal, params, state_at(step, size=1 << 22).params)
    checkpoints = Checkpoints(tmp_path, 2, "")
    whole = state_at(step, size=1 << 22)
    found = checkpoints.restore(checkpoints.latest, like(whole, jax.sharding.SingleDeviceSharding(jax.devices()[0])))
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, found, whole)
