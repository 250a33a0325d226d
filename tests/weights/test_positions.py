"""Tests of the bicubic interpolation of position embeddings."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dist_jax.weights.positions import resize_positions


def test_bicubic_weights_of_a_doubled_grid():
    row = np.array([0.0, 0.0, 0.0, 1.0])
    positions = np.concatenate([[9.0], np.tile(row, 4)])[:, None].astype(np.float32)  # four equal rows of four
    resized = resize_positions(positions, 8)
    # On a grid of twice the size, new centres have a distance of 1/4 pixel to old ones. The kernel with a = -0.75 has
    # the weights -0.10546875, 0.87890625, 0.26171875, -0.03515625 there. The border pixel is repeated outside.
    expected = [0, 0, 0, -0.03515625, -0.10546875, 0.26171875 - 0.03515625, 0.87890625 - 0.10546875, 1.10546875]
    np.testing.assert_allclose(resized[1:9, 0], expected, atol=1e-6)
    assert resized[0, 0] == 9


@given(st.integers(1, 9), st.integers(1, 9))
def test_constant_positions_and_the_same_grid_do_not_change(old, new):
    constant = np.full((1 + old * old, 2), 0.5, np.float32)
    np.testing.assert_allclose(resize_positions(constant, new), np.full((1 + new * new, 2), 0.5), rtol=1e-6)
    random = np.random.default_rng(old).standard_normal(constant.shape).astype(np.float32)
    np.testing.assert_array_equal(resize_positions(random, old), random)
