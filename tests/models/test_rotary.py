"""Tests of rotary positions; tests/weights/test_pe_torch.py compares them with timm."""

import jax
import jax.numpy as jnp
import numpy as np

from dist_jax.models.rotary import Rotary

HEAD_DIM = 8


def rotated(rotary: Rotary, x: np.ndarray, num_heads: int = 1) -> np.ndarray:
    """The same vector [HEAD_DIM] at all tokens and heads, rotated: [tokens, heads, HEAD_DIM]."""
    num_tokens = rotary.num_prefix + rotary.grid**2
    return np.asarray(rotary(jnp.tile(x, (num_tokens, num_heads)), HEAD_DIM)).reshape(num_tokens, num_heads, HEAD_DIM)


def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, HEAD_DIM)).astype(np.float32)


def test_scores_depend_on_the_distance_of_two_patches_only():
    q, k = (rotated(Rotary(4, 4, 0, 0), x)[:, 0].reshape(4, 4, HEAD_DIM) for x in vectors())
    scores = np.einsum("ijd,kld->ijkl", q, k)  # of query patches (i, j) and key patches (k, l)
    for shifted in (scores[1:, :, 1:], scores[:, 1:, :, 1:].swapaxes(0, 1).swapaxes(2, 3)):
        assert shifted.std() > 0.1
    np.testing.assert_allclose(scores[1:, :, 1:], scores[:-1, :, :-1], atol=1e-5)  # one row further
    np.testing.assert_allclose(scores[:, 1:, :, 1:], scores[:, :-1, :, :-1], atol=1e-5)  # one column further


def test_columns_rotate_the_first_half_of_a_head_and_rows_the_second():
    x, _ = vectors()
    patches = rotated(Rotary(2, 2, 0, 0), x)[:, 0].reshape(2, 2, HEAD_DIM)  # [row, column, HEAD_DIM]
    np.testing.assert_array_equal(patches[0, 0], x)  # position 0
    np.testing.assert_array_equal(patches[0, 1, 4:], x[4:])
    np.testing.assert_array_equal(patches[1, 0, :4], x[:4])
    (cos, sin), (a, b) = (np.cos(1), np.sin(1)), x[:2]  # the first frequency is 1
    np.testing.assert_allclose(patches[0, 1, :2], [a * cos - b * sin, b * cos + a * sin], rtol=1e-6)


def test_prefix_tokens_are_not_rotated_and_patches_start_at_the_first_position():
    x, _ = vectors()
    with_prefix = rotated(Rotary(2, 2, num_prefix=1, first=1), x)
    np.testing.assert_array_equal(with_prefix[0, 0], x)
    larger = rotated(Rotary(3, 3, num_prefix=0, first=0), x).reshape(3, 3, HEAD_DIM)
    np.testing.assert_allclose(with_prefix[1:, 0].reshape(2, 2, HEAD_DIM), larger[1:, 1:], atol=1e-6)


def test_a_finer_grid_has_the_positions_of_the_grid_of_the_training():
    x, _ = vectors()
    trained, finer = rotated(Rotary(2, 2, 0, 0), x), rotated(Rotary(4, 2, 0, 0), x)
    np.testing.assert_allclose(finer.reshape(4, 4, HEAD_DIM)[::2, ::2].reshape(4, 1, HEAD_DIM), trained, atol=1e-6)


def test_all_heads_are_rotated_alike_and_the_dtype_is_kept():
    x, _ = vectors()
    heads = rotated(Rotary(2, 2, 1, 1), x, num_heads=3)
    np.testing.assert_array_equal(heads[:, 1:], np.broadcast_to(heads[:, :1], heads[:, 1:].shape))
    rotary = Rotary(2, 2, 1, 1)
    assert rotary(jnp.zeros((5, HEAD_DIM), jnp.bfloat16), HEAD_DIM).dtype == jnp.bfloat16


def test_a_gradient_is_rotated_back():
    rotary, (x, y) = Rotary(2, 2, 1, 1), jnp.asarray(np.random.default_rng(1).standard_normal((2, 5, 8)), jnp.float32)
    _, pullback = jax.vjp(lambda x: rotary(x, HEAD_DIM), x)
    np.testing.assert_allclose(rotary(pullback(y)[0], HEAD_DIM), y, atol=1e-6)
