"""The published optimizer: its schedule, its decay groups, what it leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dist_jax import config as settings
from dist_jax.training.optimizer import decay_rates, learning_rate, lr_schedule, make_optimizer, update

RECIPE = settings.defaults().optimizer


def test_the_published_schedule_by_hand():
    rate = lambda epoch: float(learning_rate(epoch, 36.0, RECIPE))
    at_six = 3.2e-4 * 0.5 * (1 + np.cos(np.pi * 6 / 36))
    np.testing.assert_allclose(rate(0.0), 8e-7, rtol=1e-6)
    np.testing.assert_allclose(rate(3.0), (8e-7 + at_six) / 2, rtol=1e-6)
    np.testing.assert_allclose(rate(6.0), at_six, rtol=1e-6)
    np.testing.assert_allclose(rate(18.0), 1.6e-4, rtol=1e-5)
    assert rate(36.0) == pytest.approx(0.0, abs=1e-10)


def test_the_rate_follows_the_fractional_epoch():
    rates = [float(learning_rate(epoch, 36.0, RECIPE)) for epoch in np.linspace(0, 6, 25)]
    assert np.allclose(np.diff(rates), rates[1] - rates[0], rtol=1e-3)


def test_decay_groups():
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
    rates = decay_rates(params, 0.5)
    np.testing.assert_array_equal(rates["layers"]["to_temporal"]["kernel"].ravel(), [0.5, 0.5, 0.0])
    assert rates["proj"] == 0.5
    alone = [rates["layers"]["to_temporal"]["bias"], rates["layers"]["ln"]["scale"], rates["layers"]["class_token"]]
    assert not any(np.any(rate) for rate in [*alone, rates["video_query"], rates["pooling"]["positions"]])


def test_a_parameter_of_no_group_fails_at_start():
    with pytest.raises(ValueError, match="new/thing"):
        decay_rates({"new": {"thing": jnp.ones(3)}}, 0.1)


def test_every_parameter_of_the_network_has_a_group(tiny_model):
    shapes = jax.eval_shape(tiny_model.init, jax.random.key(0))
    rates = decay_rates(shapes, 1.0)
    decayed = sum(bool(np.any(rate)) for rate in jax.tree.leaves(rates))
    assert 0 < decayed < len(jax.tree.leaves(shapes))


@pytest.mark.usefixtures("standard_promotion")
def test_one_step_by_hand():
    changed = settings.defaults().optimizer
    changed.warmup_epochs, changed.weight_decay, changed.learning_rate = 0.0, 0.1, 0.01
    optimizer, rate = make_optimizer(changed), lr_schedule(changed, 10.0, 0.1)
    params = {"kernel": jnp.asarray([[2.0]]), "bias": jnp.asarray([2.0])}
    state = optimizer.init(params)
    gradient = {"kernel": jnp.asarray([[3.0]]), "bias": jnp.asarray([-3.0])}
    after, _ = update(optimizer, rate(0), gradient, state, params)
    # Adam's first step is the gradient's sign; decoupled decay adds 0.1 * 2 on the kernel alone.
    np.testing.assert_allclose(after["kernel"], [[2 - 0.01 * (1 + 0.2)]], rtol=1e-6)
    np.testing.assert_allclose(after["bias"], [2 + 0.01], rtol=1e-6)
