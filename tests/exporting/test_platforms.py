"""Tests of rewritten functions of jax.lax.platform_dependent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental import pallas

from dist_jax.exporting.platforms import for_platform, without_kernels

X = jnp.arange(6.0).reshape(2, 3)


def scaled(x):
    return jax.lax.platform_dependent(x, cpu=lambda x: x * 2, tpu=lambda x: x * 3, default=lambda x: x * 5)


def in_a_loop(x):
    return jax.lax.scan(lambda total, row: (total + jax.jit(scaled)(row), None), jnp.zeros(3), x)[0]


def nested(x):
    return jax.lax.platform_dependent(x, tpu=lambda x: -scaled(x), default=lambda x: scaled(x))


@pytest.mark.parametrize(("platform", "factor"), [("cpu", 2), ("tpu", 3), ("cuda", 5)])
def test_only_the_function_of_the_platform_remains_also_in_loops(platform, factor):
    for function, expected in ((scaled, factor * X), (in_a_loop, factor * X.sum(axis=0))):
        chosen = for_platform(function, platform)
        assert "platform_index" not in str(jax.make_jaxpr(chosen)(X))
        np.testing.assert_array_equal(chosen(X), expected)


def test_choices_inside_a_choice():
    np.testing.assert_array_equal(for_platform(nested, "tpu")(X), -3 * X)
    np.testing.assert_array_equal(for_platform(nested, "cpu")(X), 2 * X)


def test_arguments_and_results_are_trees():
    run = for_platform(lambda tree: {"sum": tree["a"] + scaled(tree["b"])}, "cpu")
    np.testing.assert_array_equal(run({"a": X, "b": X})["sum"], 3 * X)


def test_new_operations_become_older_ones():
    def function(x):
        buffer = jax.lax.dynamic_update_index_in_dim(jax.lax.empty((2, 3), x.dtype), x[0], 0, axis=0)
        return jnp.stack([buffer[0], x[1]], axis=1)

    run = for_platform(function, "cpu")
    assert not {"empty", "stack"} & {equation.primitive.name for equation in jax.make_jaxpr(run)(X).eqns}
    np.testing.assert_array_equal(run(X), X.T)


def double(x_ref, y_ref):
    y_ref[...] = 2 * x_ref[...]


def with_kernel(x):
    kernel = pallas.pallas_call(double, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype))
    return jax.lax.platform_dependent(x, tpu=jax.jit(kernel), cuda=lambda x: x + 1, default=lambda x: 2 * x)


def test_the_default_function_replaces_a_kernel_in_an_export_for_several_platforms():
    platforms, shape = ("cpu", "cuda", "tpu"), jax.ShapeDtypeStruct((8, 128), jnp.float32)
    with pytest.raises(ValueError, match="Only interpret mode is supported on CPU backend"):
        export.export(jax.jit(with_kernel), platforms=platforms)(shape)
    run = without_kernels(lambda x: jax.lax.map(with_kernel, x[None])[0])
    program = export.export(jax.jit(run), platforms=platforms)(shape)
    np.testing.assert_array_equal(program.call(jnp.ones((8, 128))), 2 * np.ones((8, 128)))
    assert "platform_index" in str(jax.make_jaxpr(run)(shape))  # the function for CUDA is still a choice
