"""Counted operations of a JAX function."""

import jax
import jax.numpy as jnp
import pytest

from dist_jax.cost import flops


def count(function, *shapes: tuple[int, ...]) -> int:
    return flops.count(jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)))


def test_a_product_counts_two_operations_per_multiply_add():
    assert count(lambda a, b: a @ b, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert count(lambda a, b: jnp.einsum("bik,bkj->bij", a, b), (2, 3, 5), (2, 5, 7)) == 2 * 2 * 3 * 5 * 7
    assert count(lambda a: jnp.sin(a) + a, (3, 5)) == 0


def test_loops_and_their_gradients_count_every_iteration():
    def layers(x, w):
        def layer(x, w):
            return jax.lax.scan(lambda _, row: (None, row @ w), None, x)[1], None

        return jnp.sum(jax.lax.scan(layer, x, w)[0])

    shapes = (3, 2, 4), (5, 4, 4)
    one = 2 * 2 * 4 * 4
    assert count(layers, *shapes) == 15 * one
    assert count(jax.grad(layers, argnums=(0, 1)), *shapes) == 3 * 15 * one


def test_recomputed_operations_count():
    function = lambda x, w: jnp.sum(jnp.sin(jnp.sin(x @ w) @ w))
    shapes = (2, 4), (4, 4)
    one = 2 * 2 * 4 * 4
    assert count(jax.grad(function, argnums=1), *shapes) == 5 * one  # no gradient of x
    assert count(jax.grad(jax.checkpoint(function), argnums=1), *shapes) == 7 * one


def test_a_convolution_and_its_gradients():
    def convolve(x, w):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (4, 4), "VALID", dimension_numbers=dimensions)

    shapes = (2, 16, 16, 3), (4, 4, 3, 8)
    one = 2 * 2 * 16 * (4 * 4 * 3) * 8
    assert count(convolve, *shapes) == one
    total = lambda x, w: jnp.sum(convolve(x, w) ** 2)
    assert count(jax.grad(total, argnums=1), *shapes) == 2 * one
    assert count(jax.grad(total, argnums=(0, 1)), *shapes) == pytest.approx(3 * one, rel=0.01)


def test_of_a_conditional_the_most_expensive_branch_counts():
    function = lambda x: jax.lax.cond(jnp.sum(x) > 0, lambda x: x @ x, lambda x: x, x)
    assert count(function, (4, 4)) == 2 * 4**3


def test_a_product_in_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match=r"use jax\.lax\.scan"):
        count(lambda x: jax.lax.while_loop(lambda x: jnp.sum(x) > 1.0, lambda x: x @ x, x), (4, 4))
