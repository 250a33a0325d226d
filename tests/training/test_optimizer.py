"""The published optimizer: learning-rate schedule, weight-decay mask, one step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dist_jax import config as settings
from dist_jax.training.optimizer import learning_rate, lr_schedule, make_optimizer, update, weight_decays

RECIPE = settings.defaults().optimizer


def test_the_published_schedule_has_the_hand_computed_values():
    lr = lambda epoch: float(learning_rate(epoch, 36.0, RECIPE))
    lr_at_epoch_6 = 3.2e-4 * 0.5 * (1 + np.cos(np.pi * 6 / 36))
    np.testing.assert_allclose(lr(0.0), 8e-7, rtol=1e-6)
    np.testing.assert_allclose(lr(3.0), (8e-7 + lr_at_epoch_6) / 2, rtol=1e-6)
    np.testing.assert_allclose(lr(6.0), lr_at_epoch_6, rtol=1e-6)
    np.testing.assert_allclose(lr(18.0), 1.6e-4, rtol=1e-5)
    assert lr(36.0) == pytest.approx(0.0, abs=1e-10)


def test_the_learning_rate_follows_the_fractional_epoch():
    lrs = [float(learning_rate(epoch, 36.0, RECIPE)) for epoch in np.linspace(0, 6, 25)]
    assert np.allclose(np.diff(lrs), lrs[1] - lrs[0], rtol=1e-3)


def test_weight_decay_excludes_biases_norms_tokens_and_positions():
    params = {
        "layers": {
            "to_temporal": {"kernel": jnp.ones((3, 4, 2)), "bias": jnp.ones((3, 2))},
            "ln": {"scale": jnp.ones((3, 4)), "bias": jnp.ones((3, 4))},
            "class_token": jnp.ones((3, 2, 4)),
        },
        "proj": jnp.ones((4, 4)),
        "video_query": jnp.ones(4),
        "pooling": {"positions": jnp.ones((2, 2, 4))},
    }
    decays = weight_decays(params, 0.5)
    decays_by_layer = decays["layers"]["to_temporal"]["kernel"].ravel()
    np.testing.assert_array_equal(decays_by_layer, [0.5, 0.5, 0.0])  # the last layer has no gradient
    assert decays["proj"] == 0.5
    layers = decays["layers"]
    for decay in (
        layers["to_temporal"]["bias"],
        layers["ln"]["scale"],
        layers["ln"]["bias"],
        layers["class_token"],
        decays["video_query"],
        decays["pooling"]["positions"],
    ):
        assert not np.any(decay)


def test_weight_decay_of_an_unknown_parameter_is_refused():
    with pytest.raises(ValueError, match="new/thing"):
        weight_decays({"new": {"thing": jnp.ones(3)}}, 0.1)


def test_weight_decay_of_every_network_parameter_is_defined(tiny_model):
    shapes = jax.eval_shape(tiny_model.init, jax.random.key(0))
    decays = weight_decays(shapes, 1.0)
    num_decayed = sum(bool(np.any(decay)) for decay in jax.tree.leaves(decays))
    assert 0 < num_decayed < len(jax.tree.leaves(shapes))


@pytest.mark.usefixtures("standard_promotion")
def test_one_adamw_step_equals_the_hand_computed_result():
    config = settings.defaults().optimizer
    config.warmup_epochs, config.weight_decay, config.learning_rate = 0.0, 0.1, 0.01
    optimizer, schedule = make_optimizer(config), lr_schedule(config, 10.0, 0.1)
    params = {"kernel": jnp.asarray([[2.0]]), "bias": jnp.asarray([2.0])}
    state = optimizer.init(params)
    grads = {"kernel": jnp.asarray([[3.0]]), "bias": jnp.asarray([-3.0])}
    new_params, _ = update(optimizer, schedule(0), grads, state, params)
    # Adam's first step is the sign of the gradient. Decoupled weight decay adds 0.1 * 2 to the kernel only.
    np.testing.assert_allclose(new_params["kernel"], [[2 - 0.01 * (1 + 0.2)]], rtol=1e-6)
    np.testing.assert_allclose(new_params["bias"], [2 + 0.01], rtol=1e-6)
