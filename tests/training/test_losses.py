"""Losses and targets, computed by hand and by optax's definitions."""

import jax.numpy as jnp
import numpy as np
import pytest

from dist_jax.training.losses import is_correct, sigmoid_cross_entropy, smooth_labels, soft_cross_entropy

pytestmark = pytest.mark.usefixtures("standard_promotion")
LOGITS = jnp.log(jnp.asarray([[1.0, 3.0, 4.0], [2.0, 2.0, 4.0]]))


def test_softmax_cross_entropy_of_soft_targets():
    targets = jnp.asarray([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    np.testing.assert_allclose(soft_cross_entropy(LOGITS, targets), [np.log(8 / 3), 0.5 * np.log(4) + 0.5 * np.log(2)])


def test_sigmoid_cross_entropy_is_the_mean_over_classes():
    # The sigmoids of the first row are 1/2, 3/4, 4/5.
    targets = jnp.asarray([[0.0, 1.0, 0.0]])
    expected = -(np.log(1 / 2) + np.log(3 / 4) + np.log(1 / 5)) / 3
    np.testing.assert_allclose(sigmoid_cross_entropy(LOGITS[:1], targets), [expected], rtol=1e-6)


def test_smoothed_targets_of_one_and_of_several_labels():
    np.testing.assert_allclose(smooth_labels(jnp.asarray([2]), 4, 0.2), [[0.05, 0.05, 0.85, 0.05]])
    several = jnp.asarray([[True, False, True, False], [False] * 4])
    np.testing.assert_allclose(smooth_labels(several, 4, 0.2), [[0.85, 0.05, 0.85, 0.05], [0.05] * 4], rtol=1e-6)


def test_the_best_class_is_correct_if_it_is_one_of_the_labels():
    assert is_correct(LOGITS, jnp.asarray([2, 1])).tolist() == [True, False]
    several = jnp.asarray([[True, False, False], [True, False, True]])
    assert is_correct(LOGITS, several).tolist() == [False, True]
