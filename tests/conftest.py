"""Eight simulated devices, strict arithmetic, and a network small enough to train in a test."""

import os

# Compiling is most of the tests' time; code that runs for milliseconds needs no optimizing compiler.
# (Without XLA's newer way of compiling fused operations a training step compiles in a third of the time.)
FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILE} --xla_force_host_platform_device_count=8"
# A loaded machine may keep eight device threads on two cores waiting for each other longer than XLA expects.
os.environ["XLA_FLAGS"] += " --xla_cpu_collective_call_terminate_timeout_seconds=600"
# Collectives of several axes run at once, and each blocks a thread of every simulated device: with XLA's usual pool,
# one thread a device, they can wait for each other for ever.
os.environ.setdefault("NPROC", "64")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

from helpers.training_run import stopped, training_data, undisturbed  # noqa: F401

from dist_jax import config as settings
from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.backbones.clip_vision import ClipVision, VisionConfig
from dist_jax.models.dist_network import DistConfig
from dist_jax.models.video_model import VideoModel

CLASSES = 5


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the tests, those of a file that train whole runs share one, with its runs."""
    for item in items:
        if "training_data" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


@pytest.fixture(scope="session")
def tiny_model() -> VideoModel:
    """Three CLIP blocks of width 16 over 2 x 2 patches; T = 4, S = 2."""
    vision = VisionConfig(width=16, num_layers=3, num_heads=2, patch_size=4, resolution=8, embed_dim=8)
    dist = DistConfig(
        num_frames=4,
        alpha=2,
        layers=(0, 1, 2),
        patch_size=4,
        backbone_width=16,
        embed_dim=8,
        integration_width=64,
        temporal_width=8,
        num_pooling_layers=2,
    )
    return VideoModel(ClipBackbone(vision), dist)


@pytest.fixture(scope="session")
def tiny_frozen(tiny_model: VideoModel) -> dict:
    """A random frozen tower for `tiny_model`."""
    vision = jax.jit(ClipVision(tiny_model.backbone.vision).init)(jax.random.key(7), jnp.zeros((1, 8, 8, 3)))["params"]
    return {"vision": vision, "logit_scale": jnp.log(jnp.asarray(10.0))}


@pytest.fixture(scope="session")
def tiny_text() -> jax.Array:
    """Features of five classes, unit length."""
    text = jax.random.normal(jax.random.key(8), (CLASSES, 8))
    return text / jnp.linalg.norm(text, axis=1, keepdims=True)


@pytest.fixture
def tiny_config() -> ml_collections.ConfigDict:
    """See `make_config`."""
    return make_config()


def make_config() -> ml_collections.ConfigDict:
    """Sixteen clips a batch, mixed in groups of two."""
    config = settings.defaults()
    config.batch_size = 16
    config.mix.group_size = 2
    config.optimizer.learning_rate = 1e-2
    config.optimizer.warmup_epochs = 1.0
    config.epochs = 4.0
    return config


@pytest.fixture
def standard_promotion():
    """For tests that run Optax, which mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def clips(step: int, batch_size: int = 16) -> dict[str, np.ndarray]:
    """The made-up batch of a step for `tiny_model`."""
    rng = np.random.default_rng(step)
    return {
        "video": rng.integers(0, 256, (batch_size, 4, 8, 8, 3), dtype=np.uint8),
        "labels": {"label": rng.integers(0, CLASSES, batch_size, dtype=np.int32)},
    }
