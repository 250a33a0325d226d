"""The temporal block as a kernel of TPUs, interpreted on this machine, against the same block by XLA."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_jax.models import temporal_block, tpu_temporal_block
from dist_jax.models.dist_network import DistConfig, DistNetwork
from dist_jax.models.tpu_temporal_kernels import BlockParams


def random_block(h, w, frames, sparse_frames, clips, width):
    """z, what the integration branch adds, parameters, and a gradient of the output."""
    keys = iter(jax.random.split(jax.random.key(0), 9))
    normal = lambda *shape: jax.random.normal(next(keys), shape)
    params = BlockParams(
        1 + normal(width) / 8,
        normal(width) / 8,
        normal(3, width, width) / 4,
        normal(width) / 8,
        normal(3, 3, width, width) / 8,
        normal(width) / 8,
    )
    z = normal(h, w, frames * clips, width)
    return z, normal(h * w, sparse_frames * clips, width), params, normal(*z.shape)


def output_and_grads(function, z, to_temporal, params, grad):
    output, backward = jax.vjp(function, z, to_temporal, params)
    return output, *backward(grad)


@pytest.mark.parametrize(("h", "w", "frames", "sparse_frames", "clips"), [
    (3, 4, 4, 2, 8),
    (2, 2, 3, 1, 16),  # two groups of clips
    (1, 1, 1, 1, 8),  # only borders around
    (4, 3, 5, 5, 24),  # every frame is one of the backbone
    (2, 3, 4, 2, 3),  # clips that do not fill tiles
])  # fmt: skip
def test_outputs_and_all_gradients_are_those_of_the_operations_of_xla(h, w, frames, sparse_frames, clips, monkeypatch):
    monkeypatch.setattr(tpu_temporal_block, "MAX_ROWS", 8 * w * frames)  # one group per 8 clips
    inputs = random_block(h, w, frames, sparse_frames, clips, width=8)
    kernel = lambda *args: tpu_temporal_block.temporal_block(*args, clips, True)
    plain = lambda *args: temporal_block.temporal_block(*args, clips)
    actual, expected = output_and_grads(kernel, *inputs), output_and_grads(plain, *inputs)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * float(jnp.abs(theirs).max()))


@given(clips=st.integers(1, 8).map(lambda n: 8 * n), rows_per_clip=st.integers(1, 1024))
def test_groups_of_clips_fill_tiles_and_are_as_large_as_fits(clips, rows_per_clip):
    group = tpu_temporal_block.clips_per_group(clips, rows_per_clip)
    assert clips % group == 0 and group % 8 == 0
    assert tpu_temporal_block.clips_per_group(clips + 1, rows_per_clip) == clips + 1  # not whole tiles: one group
    fits = lambda n: n * rows_per_clip <= tpu_temporal_block.MAX_ROWS
    assert fits(group) or group == 8
    assert not any(fits(n) for n in range(group + 8, clips + 1, 8) if clips % n == 0)


@pytest.mark.parametrize(("device_kind", "dtype", "shape", "clips", "supported"), [
    ("TPU v5 lite", jnp.bfloat16, (14, 14, 16 * 32, 96), 32, True),
    ("TPU v6 lite", jnp.bfloat16, (16, 16, 64 * 4, 96), 4, True),
    ("TPU v5", jnp.bfloat16, (24, 24, 64 * 8, 96), 8, False),  # a row of patches is too large
    ("TPU v5", jnp.bfloat16, (16, 16, 64 * 4, 256), 4, False),  # twice as many channels: the row is too large
    ("TPU v5", jnp.bfloat16, (16, 16, 16, 768), 1, False),  # the parameters are too large
    ("TPU v5 lite", jnp.bfloat16, (14, 14, 16 * 18, 96), 18, True),  # one group of all clips
    ("TPU v5 lite", jnp.bfloat16, (14, 14, 16 * 20, 96), 20, False),  # one group of all clips, which is too large
    ("TPU v4", jnp.bfloat16, (14, 14, 16 * 32, 96), 32, False),  # too little vector memory
    ("TPU v5 lite", jnp.float32, (14, 14, 16 * 32, 96), 32, False),
    ("NVIDIA H200", jnp.bfloat16, (14, 14, 16 * 32, 96), 32, False),
    ("", jnp.bfloat16, (14, 14, 16 * 32, 96), 32, False),  # any device
])  # fmt: skip
def test_the_kernel_needs_bfloat16_and_a_tpu_that_can_hold_a_row_of_patches(
    device_kind, dtype, shape, clips, supported
):
    assert tpu_temporal_block.supports(device_kind, jax.ShapeDtypeStruct(shape, dtype), clips) == supported


@pytest.mark.slow
def test_the_network_with_the_kernel_has_the_same_gradients_up_to_bfloat16(monkeypatch):
    interpreted = partial(tpu_temporal_block.temporal_block, interpret=True)
    monkeypatch.setattr(tpu_temporal_block, "temporal_block", interpreted)
    config = DistConfig(
        num_frames=4, alpha=2, layers=(0, 1), patch_size=4, backbone_width=32, embed_dim=16, integration_width=64,
        temporal_width=16, num_pooling_layers=1,
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(0), 4)
    features = jax.random.normal(keys[0], (2, 2, 8, 5, 32), jnp.bfloat16)
    video = jax.random.normal(keys[1], (8, 4, 8, 8, 3), jnp.bfloat16)
    inputs = (features, features[-1, :, :, 0], video)
    params = jax.jit(DistNetwork(config).init)(keys[2], *inputs)["params"]
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(keys[3], x.shape), params)  # all biases count

    def loss_and_grads(device_kind):
        network = DistNetwork(config, jnp.bfloat16, device_kind=device_kind)
        loss = lambda params: jnp.mean(jnp.square(network.apply({"params": params}, *inputs)))
        return jax.jit(jax.value_and_grad(loss))(params)

    loss, grads = loss_and_grads("")
    kernel_loss, kernel_grads = loss_and_grads("TPU v5 lite")
    np.testing.assert_allclose(kernel_loss, loss, rtol=2e-2)
    for ours, theirs in zip(jax.tree.leaves(kernel_grads), jax.tree.leaves(grads), strict=True):
        assert jnp.linalg.norm(ours - theirs) <= 0.06 * jnp.linalg.norm(theirs) + 1e-6
