"""Logits of all videos: values, order, and the memory of the devices."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_records import NUM_CLASSES, example, write_shards

from dist_jax import config as settings
from dist_jax.data import sources
from dist_jax.data.bad_records import BadRecords
from dist_jax.distributed import sharding
from dist_jax.distributed.mesh import make_mesh
from dist_jax.evaluation import scoring

BATCH, NUM_BATCHES = 8, 6
NUM_VIDEOS = BATCH * NUM_BATCHES - 3  # the last batch has padding


@pytest.fixture
def experiment(tmp_path):
    """Records whose red value tells their number, on a mesh of eight devices."""
    config = settings.defaults()
    videos = [example(record, frames=3) for record in range(NUM_VIDEOS)]
    config.data.train = config.data.val = write_shards(tmp_path, videos, shards=1)
    config.eval.batch_size, config.eval.num_views, config.model.num_frames = BATCH, 1, 2
    mesh = make_mesh(config.mesh)
    return SimpleNamespace(config=config, mesh=mesh, model=SimpleNamespace(backbone=SimpleNamespace(resolution=8)))


class RedLogits:
    """An evaluation step whose logits [B, 1, K] are the mean red value of a video plus the class number.

    Attributes:
        num_live: number of logits on the devices after each call.
    """

    def __init__(self, mesh):
        def step(video):
            red = video[..., 0].astype(jnp.float32).mean(axis=(2, 3, 4))  # [B, 1]
            return {"model": {"label": red[..., None] + jnp.arange(float(NUM_CLASSES))[None, None]}}

        self._step = jax.jit(step, out_shardings=sharding.replicated(mesh))
        self.num_live = []

    def __call__(self, params, video):
        logits = self._step(video)
        self.num_live.append(sum(array.shape == (BATCH, 1, NUM_CLASSES) for array in jax.live_arrays()))
        return logits


def compute(experiment, step, should_stop=lambda: False):
    source = sources.open_source(experiment.config.data, "val")
    return scoring.compute_logits(experiment, source, step, {}, BadRecords("val"), should_stop)


def test_every_video_has_its_own_logits_in_the_order_of_the_records(experiment):
    result = compute(experiment, RedLogits(experiment.mesh))
    logits = result.logits["model"]["label"]  # [n, 1, K]
    assert (type(logits), logits.dtype, logits.shape) == (np.ndarray, np.float32, (NUM_VIDEOS, 1, NUM_CLASSES))
    assert result.ids == [f"{record}.mp4" for record in range(NUM_VIDEOS)]
    np.testing.assert_array_equal(logits - logits[..., :1], np.tile(np.arange(5.0), (NUM_VIDEOS, 1, 1)))
    np.testing.assert_allclose(logits[:, 0, 0], [8 * record % 256 for record in range(NUM_VIDEOS)], atol=4)


def test_only_the_logits_of_the_batches_in_flight_are_on_the_devices(experiment):
    step = RedLogits(experiment.mesh)
    compute(experiment, step)
    assert len(step.num_live) == NUM_BATCHES
    assert max(step.num_live) <= scoring._BATCHES_AHEAD


def test_a_stopped_evaluation_has_no_result(experiment):
    step = RedLogits(experiment.mesh)
    assert compute(experiment, step, lambda: len(step.num_live) == 2) is None
    assert len(step.num_live) == 2
