"""Tests of the probes: hand-computed values, PyTorch's modules, invariances, sizes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_models
from helpers.small_models import DIST, video_model
from models.test_networks import B16, L14, dist_config

from dist_jax import config as settings
from dist_jax import model_setup
from dist_jax.distributed.mesh import make_mesh
from dist_jax.errors import UserError
from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.probes import AttentiveProbe, LinearProbe
from dist_jax.models.video_model import VideoModel

PROBES = ("linear_probe", "attentive_probe")
CONFIG = dataclasses.replace(DIST, layers=(2,), num_classes=7)
RNG = np.random.default_rng(4)
FEATURES = RNG.standard_normal((1, 2, 3, 5, 128)).astype(np.float32)  # [1, S, B, 1+N, D]
PIXELS = np.zeros((3, 4, 8, 8, 3), np.float32)


def run(probe, features=FEATURES, seed=0):
    """Random parameters and logits float32 [B, 7]; the summary of a frame is its first token."""
    inputs = features, features[-1, :, :, 0], PIXELS
    shapes = jax.eval_shape(probe.init, jax.random.key(0), *inputs)["params"]
    leaves = {path: leaf.shape for path, leaf in small_models.table.flatten(shapes).items()}
    params = small_models.random_params(leaves, seed)
    return params, np.asarray(jax.jit(probe.apply)({"params": params}, *inputs))


def test_a_linear_probe_is_a_linear_layer_on_the_standardised_mean_of_the_frames():
    params, logits = run(LinearProbe(CONFIG))
    mean = FEATURES[0, :, :, 0].mean(axis=0)  # [B, D]
    normal = (mean - mean.mean(axis=1, keepdims=True)) / np.sqrt(mean.var(axis=1, keepdims=True) + 1e-5)
    expected = normal @ params["classifier"]["kernel"] + params["classifier"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert set(params) == {"classifier"}


def test_a_linear_probe_does_not_depend_on_the_scale_of_the_features():
    _, logits = run(LinearProbe(CONFIG))
    _, scaled = run(LinearProbe(CONFIG), 100 * FEATURES)
    np.testing.assert_allclose(scaled, logits, atol=1e-3)


def test_an_attentive_probe_equals_the_textbook_computation_with_keys_and_values():
    params, logits = run(AttentiveProbe(CONFIG))
    attention = params["probe_attention"]

    def layer_norm(x, name):
        normal = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
        return normal * params[name]["scale"] + params[name]["bias"]

    def heads(x, name):  # [..., D] -> [..., 2, 64]
        return np.tensordot(x, attention[name]["kernel"], axes=1) + attention[name]["bias"]

    tokens = layer_norm(FEATURES[0].swapaxes(0, 1).reshape(3, 10, 128), "ln_tokens")  # [B, S * (1+N), D]
    scores = np.einsum("he,bjhe->bhj", heads(params["video_query"], "query"), heads(tokens, "key")) / 8
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    mixed = np.einsum("bhj,bjhe->bhe", weights, heads(tokens, "value"))
    x = params["video_query"] + np.einsum("bhe,hed->bd", mixed, attention["out"]["kernel"]) + attention["out"]["bias"]
    linear = lambda x, layer: x @ layer["kernel"] + layer["bias"]
    hidden = linear(layer_norm(x, "ln_mlp"), params["probe_mlp"]["fc"])
    gelu = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    expected = linear(x + linear(gelu, params["probe_mlp"]["proj"]), params["classifier"])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_equal_tokens_have_equal_weights():
    """If all tokens of a clip are equal, the logits do not depend on the query's and the key's kernel."""
    probe, tokens = AttentiveProbe(CONFIG), np.broadcast_to(FEATURES[:, :1, :, :1], FEATURES.shape)
    params, logits = run(probe, tokens)
    for name in ("query", "key"):
        params["probe_attention"][name]["kernel"] = -2 * params["probe_attention"][name]["kernel"]
    changed = jax.jit(probe.apply)({"params": params}, tokens, tokens[-1, :, :, 0], PIXELS)
    np.testing.assert_allclose(changed, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("probe", [LinearProbe, AttentiveProbe])
def test_the_order_of_the_frames_has_no_effect(probe):
    np.testing.assert_allclose(run(probe(CONFIG), FEATURES[:, ::-1])[1], run(probe(CONFIG))[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("probe", [LinearProbe, AttentiveProbe])
def test_the_logits_of_a_clip_do_not_depend_on_the_other_clips(probe):
    _, logits = run(probe(CONFIG))
    changed = FEATURES.copy()
    changed[:, :, 1:] = RNG.standard_normal(changed[:, :, 1:].shape)
    np.testing.assert_allclose(run(probe(CONFIG), changed)[1][0], logits[0], rtol=1e-4, atol=1e-4)


def test_only_the_attentive_probe_reads_patches():
    changed = FEATURES.copy()
    changed[..., 1:, :] = 0.0
    np.testing.assert_array_equal(run(LinearProbe(CONFIG), changed)[1], run(LinearProbe(CONFIG))[1])
    assert not np.allclose(run(AttentiveProbe(CONFIG), changed)[1], run(AttentiveProbe(CONFIG))[1], atol=1e-2)


# Linear: D K + K. Attentive: attention 4 (D^2 + D), MLP 8 D^2 + 5 D, two LayerNorms 4 D, query D, linear layer.
@pytest.mark.parametrize(("vision", "linear", "attentive"), [(B16, 307_600, 7_396_240), (L14, 410_000, 13_007_248)])
def test_numbers_of_trainable_parameters(vision, linear, attentive):
    for network, expected in zip(PROBES, (linear, attentive), strict=True):
        dist = dist_config(vision, 16, layers=(vision.num_layers - 1,), num_classes=400)
        shapes = jax.eval_shape(VideoModel(ClipBackbone(vision), dist, network_name=network).init, jax.random.key(0))
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


@pytest.mark.parametrize("network", PROBES)
def test_every_parameter_has_a_gradient_except_the_bias_of_the_keys(network, tiny_frozen):
    model = video_model(network)
    params = jax.tree.map(jnp.asarray, small_models.network_params(model))
    video = jax.random.normal(jax.random.key(1), (2, 4, 8, 8, 3))
    loss = lambda params: jnp.sum(jnp.sin(model.embed(params, tiny_frozen, video)))
    grads = small_models.table.flatten(jax.jit(jax.grad(loss))(params))
    without = {path for path, grad in grads.items() if not np.abs(grad).max() > 0}
    assert without == ({"probe_attention/key/bias"} if network == "attentive_probe" else set())


def test_sharded_clips_have_the_same_logits_and_gradients(tiny_frozen):
    model = video_model("attentive_probe")
    params = jax.tree.map(jnp.asarray, small_models.network_params(model))
    video = jax.random.normal(jax.random.key(1), (4, 4, 8, 8, 3))
    loss = lambda model, params: jnp.sum(jnp.sin(model.embed(params, tiny_frozen, video)))
    results = [
        jax.jit(jax.value_and_grad(loss, argnums=1), static_argnums=0)(one, params)
        for one in (model, dataclasses.replace(model, mesh=make_mesh({"data": 2, "fsdp": 2, "tensor": 2})))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *results)


@pytest.mark.parametrize("network", PROBES)
def test_a_probe_reads_and_stores_only_the_last_selected_block(network):
    config = settings.defaults()
    config.model.network, config.backbone.layers = network, (0, 1)
    setup = model_setup.abstract_setup(
        config, make_mesh(config.mesh, jax.devices()[:1]), ClipBackbone(small_models.VISION), {"label": 5}
    )
    model = setup.model
    assert (model.dist.layers, model.dist.num_classes, model.backbone.num_layers) == ((1,), 5, 2)
    video = jax.ShapeDtypeStruct((1, 16, 8, 8, 3), jnp.float32)
    assert jax.eval_shape(model.features, setup.frozen, video).shape == (1, 8, 1, 5, 128)


def test_a_zero_shot_weight_needs_a_network_that_text_classifies():
    config = settings.defaults()
    config.model.network, config.eval.zero_shot_weight = "linear_probe", 0.5
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    with pytest.raises(UserError, match=r"linear_probe has its own classifier.*zero_shot_weight=0\.5\); set eval"):
        model_setup.abstract_setup(config, mesh, ClipBackbone(small_models.VISION), {"label": 5})
    config.model.network = "probe"
    with pytest.raises(UserError, match="'probe': must be one of dist, linear_probe, attentive_probe, none"):
        model_setup.abstract_setup(config, mesh, ClipBackbone(small_models.VISION), {"label": 5})


def test_a_backbone_whose_width_is_no_multiple_of_64_is_refused():
    config = dataclasses.replace(CONFIG, backbone_width=48)
    with pytest.raises(UserError, match="width 48; must be a multiple of 64"):
        run(AttentiveProbe(config), FEATURES[..., :48])
