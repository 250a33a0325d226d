"""Eight simulated devices, strict arithmetic, and the fixtures of a small model."""

import os

from helpers.compile_flags import FAST_COMPILE

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILE} --xla_force_host_platform_device_count=8"
# On a loaded machine, eight device threads on two cores may wait for each other longer than XLA's default.
os.environ["XLA_FLAGS"] += " --xla_cpu_collective_call_terminate_timeout_seconds=600"
# Collectives over several axes run at the same time, and each blocks one thread per simulated device. They can deadlock
# in XLA's default pool of one thread per device.
os.environ.setdefault("NPROC", "64")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import jax
import ml_collections
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
# An example may compile, or share the cores with other processes.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

from helpers import small_models
from helpers.training_run import finished_run, preempted_run, training_data  # noqa: F401

from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.video_model import VideoModel


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process runs all tests that train whole runs: they share these runs and their compiled programs."""
    for item in items:
        if "training_data" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("training"))


@pytest.fixture(scope="session")
def tiny_model() -> VideoModel:
    """The model of `small_models`: three CLIP blocks over 2 x 2 patches; T = 4, S = 2."""
    return VideoModel(ClipBackbone(small_models.VISION), small_models.DIST)


@pytest.fixture(scope="session")
def tiny_frozen() -> dict:
    """Random frozen parameters of `tiny_model`."""
    params = small_models.clip_model().params
    return jax.tree.map(jax.numpy.asarray, {name: params[name] for name in ("vision", "logit_scale")})


@pytest.fixture(scope="session")
def tiny_text() -> jax.Array:
    """Text features of five classes, unit length: float32 [5, E]."""
    text = jax.random.normal(jax.random.key(8), (small_models.NUM_CLASSES, small_models.DIST.embed_dim))
    return text / jax.numpy.linalg.norm(text, axis=1, keepdims=True)


@pytest.fixture
def tiny_config() -> ml_collections.ConfigDict:
    """See `small_models.make_config`."""
    return small_models.make_config()


@pytest.fixture
def standard_promotion():
    """For tests that run Optax, which mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield
