"""Shapes, numbers of parameters, program size and properties of the networks. test_golden.py compares their values."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dist_jax.models.backbones import vision_tower
from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.backbones.clip_text import ClipText
from dist_jax.models.backbones.clip_vision import ClipVision
from dist_jax.models.backbones.text_tower import TextConfig
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.models.convolutions import TILE_ROWS
from dist_jax.models.dist_network import REMAT_POLICIES, DistConfig, DistNetwork
from dist_jax.models.video_model import VideoModel

B16 = VisionConfig(width=768, num_layers=12, num_heads=12, patch_size=16, resolution=224, embed_dim=512)
H14 = VisionConfig(width=1280, num_layers=32, num_heads=16, patch_size=14, resolution=224, embed_dim=1024)
G14 = VisionConfig(width=1408, num_layers=40, num_heads=16, patch_size=14, resolution=224, embed_dim=1024, mlp_dim=6144)
BIG_G14 = VisionConfig(
    width=1664, num_layers=48, num_heads=16, patch_size=14, resolution=224, embed_dim=1280, mlp_dim=8192
)
L14 = VisionConfig(width=1024, num_layers=24, num_heads=16, patch_size=14, resolution=224, embed_dim=768)


def dist_config(vision: VisionConfig, num_frames: int, **changes) -> DistConfig:
    """Published sizes of the DiST network for this backbone, with changes."""
    sizes = dict(
        num_frames=num_frames,
        alpha=2,
        layers=tuple(range(vision.num_layers)),
        patch_size=vision.patch_size,
        backbone_width=vision.width,
        embed_dim=vision.embed_dim,
        integration_width=384,
        temporal_width=96,
        num_pooling_layers=4,
    )
    return DistConfig(**(sizes | changes))


def param_shapes(vision: VisionConfig, dist: DistConfig):
    """Abstract trainable parameters."""
    return jax.eval_shape(VideoModel(ClipBackbone(vision), dist).init, jax.random.key(0))


@pytest.mark.parametrize(
    ("vision", "num_frames", "num_pooling_layers", "millions"),
    [(B16, 16, 4, 26.1), (B16, 16, 2, 19.0), (L14, 64, 4, 39.9), (L14, 64, 2, 32.7)],
)
def test_the_number_of_trainable_parameters_is_the_published_one(vision, num_frames, num_pooling_layers, millions):
    shapes = param_shapes(vision, dist_config(vision, num_frames, num_pooling_layers=num_pooling_layers))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize(("vision", "num_frames"), [(B16, 16), (L14, 64), (H14, 16), (G14, 16), (BIG_G14, 16)])
def test_shapes_and_dtypes_of_features_and_logits_of_the_published_models(vision, num_frames):
    dist = dist_config(vision, num_frames)
    model = VideoModel(ClipBackbone(vision, dtype=jnp.bfloat16), dist, dtype=jnp.bfloat16)
    video = jax.ShapeDtypeStruct((2, num_frames, 224, 224, 3), jnp.bfloat16)
    frozen = abstract_frozen(vision)
    features = jax.eval_shape(model.features, frozen, video)
    assert features.shape == (vision.num_layers, num_frames // 2, 2, 1 + vision.num_patches, vision.width)
    assert features.dtype == jnp.bfloat16
    text = {"label": jax.ShapeDtypeStruct((400, vision.embed_dim), jnp.float32)}
    logits = jax.eval_shape(model.logits, param_shapes(vision, dist), frozen, text, video)["label"]
    assert (logits.shape, logits.dtype) == ((2, 400), jnp.float32)


def abstract_frozen(vision: VisionConfig) -> dict:
    """Abstract frozen parameters."""
    image = jax.ShapeDtypeStruct((1, vision.resolution, vision.resolution, 3), jnp.float32)
    params = jax.eval_shape(ClipVision(vision).init, jax.random.key(0), image)["params"]
    return {"vision": params, "logit_scale": jax.ShapeDtypeStruct((), jnp.float32)}


def test_the_program_size_does_not_depend_on_the_number_of_layers():
    def program_lines(num_layers: int) -> int:
        vision = VisionConfig(width=16, num_layers=num_layers, num_heads=2, patch_size=4, resolution=8, embed_dim=8)
        dist = dist_config(vision, 4, integration_width=64, temporal_width=8, num_pooling_layers=2)
        model = VideoModel(ClipBackbone(vision), dist)
        frozen = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract_frozen(vision))
        loss = lambda params, video: jnp.sum(model.embed(params, frozen, video))
        lowered = jax.jit(jax.grad(loss)).lower(param_shapes(vision, dist), jnp.zeros((1, 4, 8, 8, 3)))
        return len(lowered.as_text().splitlines())

    assert program_lines(24) <= program_lines(12) * 1.02


def test_features_of_selected_layers_equal_those_of_all_layers(tiny_model, tiny_frozen):
    video = jax.random.normal(jax.random.key(0), (2, 4, 8, 8, 3))
    all_features = jax.jit(tiny_model.features)(tiny_frozen, video)
    for layers in ((0,), (1,), (0, 2), (1, 2)):
        model = dataclasses.replace(tiny_model, dist=dataclasses.replace(tiny_model.dist, layers=layers))
        features = jax.jit(model.features)(tiny_frozen, video)
        np.testing.assert_allclose(features, all_features[np.asarray(layers)], rtol=1e-6)


def test_the_backbone_sees_every_alphath_frame_from_frame_0(tiny_model, tiny_frozen):
    video = jax.random.normal(jax.random.key(0), (1, 4, 8, 8, 3))
    features_of = jax.jit(tiny_model.features)
    features = features_of(tiny_frozen, video)
    other_unseen = video.at[:, 1::2].set(0.0)
    np.testing.assert_array_equal(features_of(tiny_frozen, other_unseen), features)
    other_seen = video.at[:, 2].set(0.0)
    assert not np.allclose(features_of(tiny_frozen, other_seen), features)


def test_the_backbone_computes_only_the_frames_that_it_sees(tiny_model, tiny_frozen):
    video = jnp.zeros((2, 4, 8, 8, 3))
    jaxpr = jax.make_jaxpr(tiny_model.features)(tiny_frozen, video)
    convolutions = [eqn for eqn in all_equations(jaxpr.jaxpr) if "conv" in eqn.primitive.name]
    assert [eqn.invars[0].aval.shape for eqn in convolutions] == [(4, 8, 8, 3)]  # B * S frames


def all_equations(jaxpr) -> list:
    """The equations of a jaxpr and of the jaxprs inside it."""
    equations = []
    for eqn in jaxpr.eqns:
        equations.append(eqn)
        for inner in jax.tree.leaves(list(eqn.params.values())):  # also the branches of a conditional
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                equations += all_equations(inner)
    return equations


def test_the_video_embedding_depends_on_the_order_of_frames(tiny_model, tiny_frozen):
    video = jax.random.normal(jax.random.key(0), (1, 4, 8, 8, 3))
    params = jax.jit(tiny_model.init)(jax.random.key(1))
    embed = jax.jit(tiny_model.embed)
    forward, reversed_order = (embed(params, tiny_frozen, clip) for clip in (video, video[:, ::-1]))
    assert not np.allclose(forward, reversed_order, rtol=1e-4)


def test_a_truncated_backbone_gives_the_same_features(tiny_model, tiny_frozen):
    frames = jax.random.normal(jax.random.key(0), (1, 2, 8, 8, 3))
    features_of = jax.jit(type(tiny_model.backbone).features, static_argnums=(0, 3))
    expected = features_of(tiny_model.backbone, tiny_frozen, frames, (0, 1, 2))[:2]
    backbone, frozen = tiny_model.backbone.first_layers(tiny_frozen, 2)
    features = features_of(backbone, frozen, frames, (0, 1))
    assert (backbone.num_layers, len(frozen["vision"]["blocks"]["ln_1"]["scale"])) == (2, 2)
    np.testing.assert_allclose(features, expected, rtol=1e-6)


def test_the_size_of_a_chunk_does_not_change_the_features(tiny_model, tiny_frozen, monkeypatch):
    frames = jax.random.normal(jax.random.key(0), (3, 4, 8, 8, 3))

    def features_of(layers: tuple[int, ...]) -> jax.Array:
        return jax.jit(lambda frozen, frames: tiny_model.backbone.features(frozen, frames, layers))(tiny_frozen, frames)

    expected = features_of((0, 1, 2))  # [3, 4, 3, 1+N, D], all frames at once
    frame_bytes = 5 * 3 * 5 * tiny_model.backbone.width * 4  # five arrays of 3 clips, 5 tokens
    for chunk in (1, 2):
        monkeypatch.setattr(vision_tower, "MAX_CHUNK_BYTES", chunk * frame_bytes)
        np.testing.assert_allclose(features_of((0, 1, 2)), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(features_of((1, 2)), expected[1:], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(features_of((0, 2)), expected[::2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("num_frames", "clips", "token_bytes", "expected"), [
    (8, 32, 197 * 768 * 2, 2),  # B/16 8+16, 32 clips per device
    (32, 4, 257 * 1024 * 2, 8),  # L/14 32+64, 4 clips per device
    (8, 2, 197 * 768 * 4, 8),
    (6, 8, 577 * 1024 * 2, 2),  # a divisor of the number of frames
    (8, 1000, 257 * 1024 * 2, 1),  # at least one frame of each clip
])  # fmt: skip
def test_chunks_of_frames_fit_the_fast_memory(num_frames, clips, token_bytes, expected):
    assert vision_tower.frames_per_chunk(num_frames, clips, token_bytes) == expected


def test_features_without_the_last_block_are_refused(tiny_model, tiny_frozen):
    clip_vision = ClipVision(tiny_model.backbone.vision)
    with pytest.raises(ValueError, match="the last chosen block is 1, the tower's last is 2"):
        clip_vision.apply({"params": tiny_frozen["vision"]}, jnp.zeros((1, 1, 8, 8, 3)), (0, 1), method="features")


def test_the_text_embedding_is_read_at_the_end_token_and_ignores_later_tokens():
    config = TextConfig(width=16, num_layers=2, num_heads=2, vocab_size=20, context_length=6, embed_dim=8)
    tokens = jnp.asarray([[18, 3, 4, 19, 0, 0], [18, 3, 4, 19, 7, 7]], jnp.int32)
    params = jax.jit(ClipText(config).init)(jax.random.key(0), tokens)
    first, second = jax.jit(ClipText(config).apply)(params, tokens)
    np.testing.assert_allclose(first, second, rtol=1e-6)
    other_end_token = dataclasses.replace(config, end_token=4)
    assert not np.allclose(jax.jit(ClipText(other_end_token).apply)(params, tokens)[0], first)


@pytest.mark.slow
def test_the_embedding_of_a_clip_does_not_depend_on_the_number_of_clips(tiny_model, tiny_frozen):
    video = jax.random.normal(jax.random.key(0), (TILE_ROWS, 4, 8, 8, 3))
    params = jax.jit(tiny_model.init)(jax.random.key(1))
    embed = jax.jit(tiny_model.embed)
    few = [embed(params, tiny_frozen, clips) for clips in (video[:3], video[3:6], video[6:])]
    np.testing.assert_allclose(embed(params, tiny_frozen, video), jnp.concatenate(few), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_rematerialization_gives_the_same_gradients(tiny_model):
    dist = tiny_model.dist
    features = jax.random.normal(jax.random.key(0), (3, 2, 1, 5, 128))
    video = jax.random.normal(jax.random.key(1), (1, 4, 8, 8, 3))
    summary = features[-1, :, :, 0]
    params = jax.jit(DistNetwork(dist).init)(jax.random.key(2), features, summary, video)

    def grads(network: DistNetwork) -> dict:
        loss = lambda params: jnp.sum(jnp.sin(network.apply(params, features, summary, video)))
        return jax.jit(jax.grad(loss))(params)

    expected = grads(DistNetwork(dist))
    assert_allclose = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    for remat in REMAT_POLICIES:
        jax.tree.map(assert_allclose, grads(DistNetwork(dist, remat=remat)), expected)


def test_features_without_a_class_token_need_no_class_token_parameter(tiny_model):
    network = DistNetwork(tiny_model.dist)
    features, summary = jnp.zeros((3, 2, 1, 4, 128)), jnp.zeros((2, 1, 128))  # 4 patches, no class token
    video = jnp.zeros((1, 4, 8, 8, 3))
    params = jax.eval_shape(network.init, jax.random.key(0), features, summary, video)
    assert "class_token" not in params["params"]["layers"]
    embedding = jax.eval_shape(network.apply, params, features, summary, video)
    assert embedding.shape == (1, tiny_model.dist.embed_dim)
