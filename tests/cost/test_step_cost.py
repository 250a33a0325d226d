"""What makes DiST cheap, as exact figures of the compiled programs: ViT-B/16, 8+16 frames, 32 clips on one device."""

import jax
import pytest

from dist_jax import config
from dist_jax.cost import abstract, flops, programs
from dist_jax.distributed.mesh import make_mesh
from dist_jax.model_setup import ModelSetup
from dist_jax.training import memory


@pytest.fixture(scope="module")
def setup() -> ModelSetup:
    """The default configuration; nothing is allocated."""
    settings = config.defaults()
    settings.batch_size = 32
    with jax.numpy_dtype_promotion("standard"):
        return abstract.setup(settings, make_mesh(settings.mesh, jax.devices()[:1]))


def temporary_memory(name: str, setup: ModelSetup) -> int:
    return memory.step_memory(programs.trace(name, setup).lower().compile()).temporary


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_training_takes_at_most_four_tenths_of_the_temporary_memory_of_full_fine_tuning(setup):
    train, full = (temporary_memory(name, setup) for name in (programs.TRAIN, programs.FULL_FINE_TUNING))
    assert train <= 0.4 * full


@pytest.mark.usefixtures("standard_promotion")
def test_a_step_costs_one_backbone_forward_and_three_dist_forwards(setup):
    model, batch = setup.model, setup.config.batch_size
    dist, backbone = model.dist, model.backbone
    tokens = backbone.num_prefix_tokens + backbone.num_patches
    stream = jax.ShapeDtypeStruct((dist.num_sparse_frames, batch, tokens, backbone.width), model.dtype)
    features = jax.ShapeDtypeStruct((len(dist.layers), *stream.shape), model.dtype)
    summary = jax.ShapeDtypeStruct((*stream.shape[:2], backbone.width), model.dtype)
    video = jax.ShapeDtypeStruct((batch, dist.num_frames, backbone.resolution, backbone.resolution, 3), model.dtype)
    params = {"params": jax.eval_shape(model.init, jax.random.key(0))}
    dist_forward = flops.count(jax.make_jaxpr(model.network.apply)(params, features, summary, video))
    backbone_forward = flops.count(programs.trace(programs.FROZEN_FORWARD, setup).jaxpr)
    step = flops.count(programs.trace(programs.TRAIN, setup).jaxpr)
    assert step == pytest.approx(backbone_forward + 3 * dist_forward, rel=0.05)


@pytest.mark.usefixtures("standard_promotion")
def test_counted_operations_match_published_figures(setup):
    # Multiply-adds of ViT-B/16 on one frame of 224 x 224 pixels: 17.6 G (timm's table of results).
    forward = flops.count(programs.trace(programs.FROZEN_FORWARD, setup).jaxpr)
    num_frames = setup.config.batch_size * setup.model.dist.num_sparse_frames
    assert forward / num_frames / 2e9 == pytest.approx(17.6, rel=0.01)
    full = flops.count(programs.trace(programs.FULL_FINE_TUNING, setup).jaxpr)
    assert full == pytest.approx(3 * forward, rel=0.01)  # no gradient of the pixels
