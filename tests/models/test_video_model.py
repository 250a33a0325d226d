"""Tests of VideoModel: logits of several labels, plain CLIP, mixtures, networks with their own classifier."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_models
from helpers.small_models import video_model
from hypothesis import given, settings
from hypothesis import strategies as st
from models.test_networks import all_equations

from dist_jax.models.dist_network import DistConfig
from dist_jax.models.layers import Linear, unit
from dist_jax.models.networks import NETWORKS

NUM_CLASSES = {"verb": 3, "noun": 2}  # jit sorts the keys of a dictionary: noun before verb
VIDEO = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 8, 8, 3)), jnp.float32)


def texts(num_classes=NUM_CLASSES):
    """Text features of each label, unit length."""
    keys = jax.random.split(jax.random.key(5), len(num_classes))
    return {
        name: unit(jax.random.normal(key, (k, 32))) for key, (name, k) in zip(keys, num_classes.items(), strict=True)
    }


def params_of(model):
    return jax.tree.map(jnp.asarray, small_models.network_params(model))


def assert_equal_logits(actual, expected):
    assert actual.keys() == expected.keys()
    for name, logits in actual.items():
        np.testing.assert_allclose(logits, expected[name], rtol=1e-4, atol=1e-4, err_msg=name)


class MeanPool(nn.Module):
    """A small network: a linear layer on the mean of the frame summaries."""

    config: DistConfig
    dtype: jnp.dtype
    remat: str
    device_kind: str

    @nn.compact
    def __call__(self, features, frame_summary, video):
        return Linear(self.config.output_dim, name="head")(jnp.mean(frame_summary, axis=0))


@pytest.fixture(scope="module")
def two_labels():
    """A model with text classifiers of two labels."""
    NETWORKS["mean_pool"] = MeanPool
    yield video_model("mean_pool", NUM_CLASSES)
    del NETWORKS["mean_pool"]


@pytest.fixture(scope="module")
def both(two_labels, tiny_frozen):
    """Trained and plain logits of two labels."""
    return jax.jit(two_labels.both_logits)(params_of(two_labels), tiny_frozen, texts(), VIDEO)


def test_each_label_has_its_own_projection_of_the_dist_network(tiny_frozen):
    model, single = video_model("dist", NUM_CLASSES), video_model("dist", {"label": 2})
    params = params_of(model)
    assert params["proj"].shape == (64, 2 * 32)
    logits = jax.jit(model.logits)(params, tiny_frozen, texts(), VIDEO)
    assert {name: x.shape for name, x in logits.items()} == {"verb": (2, 3), "noun": (2, 2)}
    second = params | {"proj": params["proj"][:, 32:]}
    expected = jax.jit(single.logits)(second, tiny_frozen, {"label": texts()["noun"]}, VIDEO)["label"]
    np.testing.assert_allclose(logits["noun"], expected, rtol=1e-4, atol=1e-4)


def unit_frames(model, frozen):
    """The unit image embeddings of frames 0 and 2 (alpha = 2), in one call per frame: two arrays [B, E]."""
    embed = lambda frame: model.backbone.frame_embeddings(frozen, model.backbone.features(frozen, frame, (2,))[0, 0])
    return [np.asarray(unit(jax.jit(embed)(VIDEO[:, frame : frame + 1]))) for frame in (0, 2)]


def test_plain_logits_are_the_mean_of_the_cosines_of_the_frames(two_labels, tiny_frozen, both):
    frames = unit_frames(two_labels, tiny_frozen)
    for name, features in texts().items():
        cosines = [frame @ np.asarray(features).T for frame in frames]
        np.testing.assert_allclose(both[1][name], 10 * np.mean(cosines, axis=0), rtol=1e-4, atol=1e-4)


def test_both_logits_are_those_of_two_passes(two_labels, tiny_frozen, both):
    params = params_of(two_labels)
    assert_equal_logits(jax.jit(two_labels.logits)(params, tiny_frozen, texts(), VIDEO), both[0])
    assert_equal_logits(jax.jit(two_labels.plain_logits)(tiny_frozen, texts(), VIDEO), both[1])


def test_plain_logits_come_from_the_last_block_also_if_the_network_does_not_read_it(two_labels, tiny_frozen, both):
    model = dataclasses.replace(two_labels, dist=dataclasses.replace(two_labels.dist, layers=(0, 1)))
    trained, plain = jax.jit(model.both_logits)(params_of(model), tiny_frozen, texts(), VIDEO)
    assert_equal_logits(plain, both[1])
    assert not np.allclose(trained["verb"], both[0]["verb"], atol=1e-2)


@settings(max_examples=20)
@given(weight=st.floats(0, 1, width=32))
def test_mixed_logits_are_the_weighted_mean(weight):
    model = video_model("dist", NUM_CLASSES)
    trained = {"verb": jnp.full((1, 1), 2.0), "noun": jnp.full((1, 1), 4.0)}
    plain = {"verb": jnp.full((1, 1), 6.0), "noun": jnp.full((1, 1), -4.0)}
    mixed = model.mix(trained, plain, weight)
    np.testing.assert_allclose(mixed["verb"], [[2 * (1 - weight) + 6 * weight]], rtol=1e-6)
    np.testing.assert_allclose(mixed["noun"], [[4 * (1 - weight) - 4 * weight]], rtol=1e-6, atol=1e-6)


def num_products(function, *arguments):
    """Matrix products and convolutions in a program."""
    equations = all_equations(jax.make_jaxpr(function)(*arguments).jaxpr)
    return sum(eqn.primitive.name in ("dot_general", "conv_general_dilated") for eqn in equations)


def test_mixed_logits_mix_both_classifiers(two_labels, tiny_frozen, both):
    mixed = jax.jit(two_labels.mixed_logits, static_argnums=4)(params_of(two_labels), tiny_frozen, texts(), VIDEO, 0.25)
    assert_equal_logits(mixed, two_labels.mix(*both, 0.25))


def test_mixed_logits_compute_only_what_has_a_weight(two_labels, tiny_frozen):
    params = params_of(two_labels)

    def products(weight):
        mixed = lambda params: two_labels.mixed_logits(params, tiny_frozen, texts(), VIDEO, weight)
        return num_products(mixed, params)

    trained = num_products(lambda params: two_labels.logits(params, tiny_frozen, texts(), VIDEO), params)
    plain = num_products(lambda _: two_labels.plain_logits(tiny_frozen, texts(), VIDEO), params)
    assert (products(0.0), products(1.0)) == (trained, plain)
    assert products(0.5) > max(trained, plain)


def test_without_network_the_logits_are_plain_for_any_weight(tiny_frozen, both):
    model = video_model("none", NUM_CLASSES)
    params = model.init(jax.random.key(0))
    assert params == {}
    mixed_logits = jax.jit(model.mixed_logits, static_argnums=4)
    for weight in (0.0, 0.5):
        assert_equal_logits(mixed_logits(params, tiny_frozen, texts(), VIDEO, weight), both[1])


def test_without_network_the_embedding_is_the_mean_of_the_unit_frame_embeddings(two_labels, tiny_frozen):
    embedding = jax.jit(video_model("none").embed)({}, tiny_frozen, VIDEO)
    np.testing.assert_allclose(embedding, np.mean(unit_frames(two_labels, tiny_frozen), axis=0), atol=1e-5)


@pytest.mark.parametrize("network", ["linear_probe", "attentive_probe"])
def test_the_logits_of_a_probe_are_parts_of_its_output(network, tiny_frozen):
    model = video_model(network, NUM_CLASSES)
    params = params_of(model)
    output = jax.jit(model.embed)(params, tiny_frozen, VIDEO)
    assert (output.shape, output.dtype) == ((2, 5), jnp.float32)
    zeros = jax.tree.map(jnp.zeros_like, texts())  # only their sizes count
    logits = jax.jit(model.logits)(params, tiny_frozen, zeros, VIDEO)
    assert_equal_logits(logits, {"verb": output[:, :3], "noun": output[:, 3:]})


def test_the_logits_of_a_probe_cannot_be_mixed(tiny_frozen):
    model = video_model("linear_probe", NUM_CLASSES)
    for weight in (0.5, 1.0):
        with pytest.raises(ValueError, match="'linear_probe' has no logits that can be mixed"):
            model.mixed_logits(params_of(model), tiny_frozen, texts(), VIDEO, weight)


def test_other_numbers_of_classes_than_those_of_the_classifier_are_refused(tiny_frozen):
    model = video_model("linear_probe", NUM_CLASSES)
    with pytest.raises(ValueError, match=r"has 5 outputs; expected 3 \+ 3"):
        jax.eval_shape(model.logits, params_of(model), tiny_frozen, texts({"verb": 3, "noun": 3}), VIDEO)
