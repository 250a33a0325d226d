"""Convolutions: hand-computed results, and the same results on CPU and on accelerators."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dist_jax.models import convolutions
from dist_jax.models.convolutions import TemporalStem, space_to_channels, temporal_conv


def test_temporal_convolution_equals_the_hand_computed_result():
    frames = jnp.asarray([1.0, 10.0, 100.0])
    x = jnp.stack([frames, 2 * frames], axis=1)  # [T, B]
    kernel, bias = jnp.asarray([1.0, 2.0, 3.0]).reshape(3, 1, 1), jnp.asarray([0.5])
    expected = np.asarray([2 + 30, 1 + 20 + 300, 10 + 200])[:, None] * [1, 2] + 0.5
    for shape in ((1, 3, 2, 1), (1, 6, 1)):  # frames and clips as two axes and as one
        y = temporal_conv(x.reshape(shape), kernel, bias, num_frames=3)
        np.testing.assert_allclose(y, expected.reshape(shape))


def test_the_stem_adds_five_frames_of_a_patch():
    video = jnp.asarray([1.0, 10.0, 100.0]).reshape(1, 3, 1, 1, 1) * jnp.ones((1, 3, 2, 4, 3))  # two patches of 2 x 2
    kernel = jnp.asarray([1.0, 2.0, 3.0, 4.0, 5.0]).reshape(5, 1, 1) * jnp.ones((5, 12, 1))
    z = TemporalStem(1, 2, jnp.float32).apply({"params": {"kernel": kernel, "bias": jnp.asarray([0.5])}}, video)
    assert z.shape == (1, 2, 3, 1)  # [h, w, T * B, M]
    expected = [12 * (3 + 40 + 500) + 0.5, 12 * (2 + 30 + 400) + 0.5, 12 * (1 + 20 + 300) + 0.5]
    np.testing.assert_allclose(z[0, 1, :, 0], expected)


TIME = (partial(convolutions._time_products, 5), partial(convolutions._time_convolution, 5))
ONE_FRAME = (partial(convolutions._time_products, 1), partial(convolutions._time_convolution, 1))
SPACE = (convolutions._space_products, convolutions._space_convolution)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("functions", "shape", "kernel_shape"), [
    ((convolutions._patch_products, convolutions._patch_convolution), (2, 4, 6, 3), (2, 2, 3, 5)),
    (TIME, (4, 5, 2, 6), (3, 6, 7)),
    (TIME, (4, 10, 6), (3, 6, 7)),
    (ONE_FRAME, (4, 1, 1, 6), (3, 6, 7)),
    (ONE_FRAME, (4, 3, 6), (3, 6, 6)),
    (SPACE, (4, 5, 6, 6), (3, 3, 6, 7)),
    (SPACE, (1, 5, 1, 6), (3, 3, 6, 7)),
    (SPACE, (2, 1, 3, 1), (3, 3, 1, 1)),
])  # fmt: skip
def test_values_and_gradients_are_the_same_on_cpu_and_on_accelerators(functions, shape, kernel_shape, dtype):
    x = jax.random.normal(jax.random.key(0), shape, dtype)
    kernel = jax.random.normal(jax.random.key(1), kernel_shape, dtype)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == jnp.float32 else {"rtol": 0.02, "atol": 0.05}

    def value_and_gradients(function: Callable) -> tuple:
        loss = lambda x, kernel: jnp.sum(jnp.sin(function(x, kernel).astype(jnp.float32)))
        return function(x, kernel), *jax.grad(loss, argnums=(0, 1))(x, kernel)

    for cpu, accelerator in zip(*map(value_and_gradients, functions), strict=True):
        assert cpu.dtype == accelerator.dtype == dtype
        np.testing.assert_allclose(cpu.astype(jnp.float32), accelerator.astype(jnp.float32), **tolerance)


def test_the_pixels_of_a_patch_are_flattened_row_by_row():
    frames = jnp.arange(4 * 4 * 3, dtype=jnp.float32).reshape(1, 4, 4, 3)
    patches = space_to_channels(frames, 2)
    assert patches.shape == (1, 2, 2, 12)
    np.testing.assert_array_equal(patches[0, 0, 1], frames[0, 0:2, 2:4].ravel())
