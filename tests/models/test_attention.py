"""The fused attention of TPUs, interpreted on this machine, against attention by XLA."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_models

from dist_jax.distributed.mesh import make_mesh
from dist_jax.distributed.sharding import over_clips_and_heads
from dist_jax.models import tpu_attention
from dist_jax.models.attention import attention_weights, weighted_values
from dist_jax.models.backbones.clip_vision import ClipVision
from dist_jax.models.backbones.pe_vision import PeVision, PeVisionConfig
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.models.rotary import Rotary

attend = partial(tpu_attention.attend, interpret=True)


def heads_of(shape, seed=0):
    """Queries, keys and values whose scores differ strongly, so that weights are not all alike."""
    return [jax.random.normal(key, shape).astype(jnp.bfloat16) for key in jax.random.split(jax.random.key(seed), 3)]


def dense(q, k, v, head_dim):
    return weighted_values(attention_weights(q, k, q.shape[-1] // head_dim), v)


@pytest.mark.parametrize(("shape", "head_dim"), [
    ((3, 5, 128), 64),
    ((2, 3, 5, 256), 64),  # two tiles, frames and clips
    ((1, 197, 128), 32),  # the tokens of B/16; four heads in a tile
    ((1, 9, 256), 128),  # one head in a tile
])  # fmt: skip
def test_the_kernel_is_softmax_attention(shape, head_dim):
    q, k, v = heads_of(shape)
    expected = dense(*(x.astype(jnp.float32) for x in (q, k, v)), head_dim)
    # bfloat16 has 8 bits: a relative error of 2**-8 in the weights and in the result.
    np.testing.assert_allclose(attend(q, k, v, head_dim).astype(jnp.float32), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(("rotary", "head_dim"), [
    (Rotary(grid=3, trained_grid=3, num_prefix=1, first=1), 64),
    (Rotary(grid=4, trained_grid=3, num_prefix=0, first=0), 32),
])  # fmt: skip
def test_the_kernel_rotates_queries_and_keys(rotary, head_dim):
    q, k, v = heads_of((2, rotary.num_prefix + rotary.grid**2, 256))
    rotated = (rotary(x, head_dim) for x in (q, k))  # rounded to bfloat16, as in the kernel
    expected = dense(*(x.astype(jnp.float32) for x in (*rotated, v)), head_dim)
    actual = attend(q, k, v, head_dim, rotary).astype(jnp.float32)
    np.testing.assert_allclose(actual, expected, rtol=2e-2, atol=2e-2)
    assert np.abs(actual - attend(q, k, v, head_dim).astype(jnp.float32)).max() > 0.1


def test_large_scores_do_not_overflow():
    q, k, v = heads_of((1, 5, 128))
    out = attend(q * 100, k * 100, v, 64).astype(jnp.float32)
    np.testing.assert_allclose(out, dense(q * 100, k * 100, v, 64).astype(jnp.float32), rtol=2e-2, atol=2e-2)


def test_the_parts_of_a_large_frame_are_the_whole(monkeypatch):
    q, k, v = heads_of((2, 5, 512))
    expected = attend(q, k, v, 64)
    monkeypatch.setattr(tpu_attention, "VECTOR_MEMORY", 2 * tpu_attention.tile_bytes(5, 64))  # two steps of two tiles
    assert tpu_attention.lanes_per_step(5, 512, 64) == 256
    np.testing.assert_array_equal(attend(q, k, v, 64), expected)


@pytest.mark.parametrize(("tokens", "width", "rotates", "lanes"), [
    (197, 768, False, 768),  # B/16
    (257, 1024, False, 1024),  # L/14
    (577, 1024, False, 512),  # L/14 at 336 pixels
    (785, 1024, False, 256),  # L/14 at 392 pixels
    (1024, 768, False, 128),  # SigLIP B/16 at 512 pixels
    (577, 1024, True, 256),  # Perception Encoder L/14
    (1025, 1024, True, 128),  # the same at 448 pixels
])  # fmt: skip
def test_a_step_of_the_kernel_holds_what_fits(tokens, width, rotates, lanes):
    assert tpu_attention.lanes_per_step(tokens, width, 64, rotates) == lanes


@pytest.mark.parametrize(("tokens", "head_dim", "rotates", "fits"), [
    (1025, 64, False, True),
    (1025, 64, True, True),
    (1370, 64, False, False),  # 518 pixels, patches of 14
    (901, 32, False, False),  # four heads in a tile
    (1370, 128, False, True),  # one
])  # fmt: skip
def test_the_scores_of_one_tile_must_fit(tokens, head_dim, rotates, fits):
    q = jax.ShapeDtypeStruct((1, tokens, 1024), jnp.bfloat16)
    assert tpu_attention.supports(q, head_dim, 1, rotates) == fits


def test_devices_share_clips_and_heads():
    q, k, v = heads_of((2, 4, 5, 256))
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    sharded = over_clips_and_heads(partial(attend, head_dim=64), mesh)
    np.testing.assert_array_equal(jax.jit(sharded)(q, k, v), attend(q, k, v, 64))


@pytest.mark.parametrize(("dtype", "width", "head_dim", "num_head_shards", "supported"), [
    (jnp.bfloat16, 768, 64, 1, True),
    (jnp.bfloat16, 1024, 64, 8, True),
    (jnp.float32, 768, 64, 1, False),  # float32 runs at full precision by XLA
    (jnp.bfloat16, 1280, 80, 1, False),  # heads of ViT-H/14 do not fill tiles
    (jnp.bfloat16, 768, 64, 4, False),  # 192 channels per device: half a tile
])  # fmt: skip
def test_the_kernel_needs_whole_tiles_of_whole_heads(dtype, width, head_dim, num_head_shards, supported):
    q = jax.ShapeDtypeStruct((1, 5, width), dtype)
    assert tpu_attention.supports(q, head_dim, num_head_shards) == supported


@pytest.mark.parametrize(
    ("tower_class", "config"),
    [(ClipVision, VisionConfig(128, 2, 2, 4, 8, 32)), (PeVision, PeVisionConfig(128, 2, 2, 4, 8, 32))],
)
@pytest.mark.parametrize(("mesh", "on_tpu"), [({"data": 4, "fsdp": 2, "tensor": 1}, 1), (None, 0)])
def test_the_tower_uses_the_kernel_on_the_tpus_of_a_mesh(tower_class, config, mesh, on_tpu):
    mesh = mesh and make_mesh(mesh)
    tower = tower_class(config, jnp.bfloat16, mesh=mesh)
    frames = jnp.zeros((8, 2, 8, 8, 3), jnp.bfloat16)
    params = jax.eval_shape(tower_class(config).init, jax.random.key(0), frames[:, 0])["params"]
    run = jax.jit(lambda params, frames: tower.apply({"params": params}, frames, (0, 1), method="features"))
    traced = run.trace(params, frames)
    kernels = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text().count("tpu_custom_call")
        for platform in ("tpu", "cpu", "cuda")
    }
    assert kernels == {"tpu": on_tpu, "cpu": 0, "cuda": 0}


def test_a_float32_tower_keeps_full_precision():
    """The small CLIP has heads of width 16 and float32 arithmetic: no kernel on any platform."""
    tower = ClipVision(small_models.VISION)
    frames = jnp.zeros((1, 1, 8, 8, 3))
    params = jax.eval_shape(tower.init, jax.random.key(0), frames[:, 0])["params"]
    run = jax.jit(lambda params, frames: tower.apply({"params": params}, frames, (2,), method="features"))
    assert "tpu_custom_call" not in run.trace(params, frames).lower(lowering_platforms=("tpu",)).as_text()
