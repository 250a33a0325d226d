"""Programs that run: measurements, and full fine-tuning as a real training of the backbone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_models

from dist_jax.cost import measure, programs
from dist_jax.distributed.mesh import make_mesh
from dist_jax.model_setup import ModelSetup, abstract_setup
from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.training.optimizer import make_optimizer


@pytest.fixture(scope="module")
def setup() -> ModelSetup:
    """Three blocks over 2 x 2 patches, on one device; nothing is allocated."""
    config = small_models.make_config()
    config.model.num_frames, config.model.integration_width, config.model.num_pooling_layers = 4, 64, 1
    config.mix.mixup_alpha = config.mix.cutmix_alpha = 0.0
    return abstract_setup(
        config, make_mesh(config.mesh, jax.devices()[:1]), ClipBackbone(small_models.VISION), num_classes={"label": 5}
    )


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", [programs.FROZEN_FORWARD, programs.FULL_FINE_TUNING])
def test_a_program_is_measured(name, setup):
    result = measure.measure(name, setup, num_steps=2)
    assert (result.program, len(result.seconds)) == (name, 2)
    assert 0 < min(result.seconds) <= result.median <= max(result.seconds)
    assert result.flops > 0
    assert result.bytes > result.arguments > 0
    assert result.peak_memory is None or result.peak_memory > result.temporary


def test_random_arguments_have_the_shapes_and_finite_values():
    compiled = jax.jit(lambda x, y, z: (x["a"] * 2, y, z)).lower(
        {"a": jnp.zeros((2, 3), jnp.bfloat16)}, jnp.zeros(4, jnp.uint8), jnp.ones((), jnp.int32)
    )
    tree, pixels, count = measure.random_arguments(compiled.compile())
    assert (tree["a"].shape, tree["a"].dtype) == ((2, 3), jnp.bfloat16)
    assert (np.asarray(tree["a"], np.float32) >= 0).all()  # e.g. second moments
    assert (pixels.dtype, int(count)) == (np.uint8, 0)


@pytest.fixture
def fine_tuned(setup, tiny_frozen):
    """The fine-tuned model and the parameters of a CLIP."""
    model = programs.fine_tuning(setup).model
    return model, {"vision": tiny_frozen["vision"]}


@pytest.mark.slow
def test_full_fine_tuning_has_the_parameters_and_the_embeddings_of_clip(setup, fine_tuned, tiny_frozen):
    model, params = fine_tuned
    expected_shapes = jax.tree.map(jnp.shape, params)
    assert jax.tree.map(jnp.shape, jax.eval_shape(model.init, jax.random.key(0))) == expected_shapes
    video = jax.random.normal(jax.random.key(1), (2, 4, 8, 8, 3))
    last = setup.model.features(tiny_frozen, video)[-1]  # [S, B, 1+N, D]
    expected = jnp.mean(setup.model.backbone.frame_embeddings(tiny_frozen, last), axis=0)
    np.testing.assert_allclose(model.embed(params, {}, video), expected, atol=1e-5)


def test_full_fine_tuning_trains_every_parameter(fine_tuned):
    model, params = fine_tuned
    video = jax.random.normal(jax.random.key(1), (2, 4, 8, 8, 3))
    grads = jax.grad(lambda params: jnp.sum(model.embed(params, {}, video) ** 2))(params)
    constant = [
        jax.tree_util.keystr(path)
        for path, grad in jax.tree_util.tree_leaves_with_path(grads)
        if not np.abs(np.asarray(grad)).max() > 1e-9
    ]
    # The bias of the key adds the same number to all scores of a query.
    assert [path for path in constant if "['key']['bias']" not in path] == []


@pytest.mark.usefixtures("standard_promotion")
def test_full_fine_tuning_uses_the_optimizer_of_the_configuration(setup):
    full = programs.fine_tuning(setup)
    assert full.frozen.keys() == {"logit_scale"}
    assert dataclasses.replace(full, model=setup.model, frozen=setup.frozen) == setup
    params = jax.eval_shape(full.model.init, jax.random.key(0))
    moments = jax.eval_shape(make_optimizer(full.config.optimizer).init, params)
    sizes = sum(leaf.size for leaf in jax.tree.leaves(moments))
    assert sizes == 1 + 2 * sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("device_kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA T400 4GB", None),
        ("Tesla T4", None),  # no bfloat16
    ],
)
def test_the_peak_of_a_gpu_is_that_of_its_data_sheet(device_kind, peak):
    assert measure.gpu_peak(device_kind) == peak
