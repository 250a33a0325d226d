"""Tests of attention maps: weights of the pooling layers, share inside a mask, pictures."""

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from helpers import small_models

import dist_jax
from dist_jax.distributed.mesh import AXES, make_mesh
from dist_jax.errors import UserError
from dist_jax.inference import evidence_plots
from dist_jax.inference.explain import Evidence, explain, weight_inside
from dist_jax.inference.video_classifier import Prediction
from dist_jax.models.layers import standardize
from dist_jax.models.pooling import CrossAttention, SpatialAttention
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import table

QUARTERS = np.array([[0.4, 0.2], [0.2, 0.0]], np.float32)  # weights of 2 x 2 patches; 0.2 is the class token's


def predictor(source):
    """On two devices: an odd number of clips is padded."""
    mesh = make_mesh(dict.fromkeys(AXES, 1) | {"data": 2}, jax.devices()[:2])
    return small_models.predictor(source, mesh=mesh)


@pytest.fixture(scope="module")
def model():
    return predictor(small_models.model())


def one_frame(patch_weights=QUARTERS) -> Evidence:
    frames = np.full((1, 1, 8, 8, 3), 255, np.uint8)
    return Evidence("x.mp4", frames, np.ones((1, 1), np.float32), patch_weights[None, None])


def test_weights_of_frames_and_tokens_sum_to_one_in_every_layer(model):
    maps = model.attention(small_models.video(num_clips=2))
    assert maps.frames.shape == (2, 2, 2)  # B, P, S
    assert maps.patches.shape == (2, 2, 2, 2, 2)  # B, P, S, h, w
    np.testing.assert_allclose(maps.frames.sum(axis=-1), 1, rtol=1e-5)
    class_token = 1 - maps.patches.sum(axis=(-2, -1))
    assert ((class_token > 0) & (class_token < 1)).all()
    assert maps.patches.min() > 0
    assert np.ptp(maps.patches) > 0.01


def test_queries_of_zero_read_all_tokens_equally():
    source = small_models.model()
    params = table.flatten(source.dist_params)
    for path, leaf in params.items():
        if path.startswith("pooling/") and "/query/" in path:
            leaf[:] = 0
    maps = predictor(source).attention(small_models.video(num_clips=1))
    assert len(maps.frames) == 1
    np.testing.assert_allclose(maps.frames, 1 / 2, rtol=1e-5)
    np.testing.assert_allclose(maps.patches, 1 / 5, rtol=1e-5)  # four patches and the class token


def test_the_spatial_weights_are_those_of_attention_with_keys():
    """SpatialAttention computes no keys; CrossAttention has the same parameters and does."""
    query = jax.random.normal(jax.random.key(0), (2, 3, 128))  # [S, B, C]
    tokens = jax.random.normal(jax.random.key(1), (5, 2, 3, 128))  # [1+N, S, B, C]
    spatial, cross = SpatialAttention(jnp.float32), CrossAttention(jnp.float32)

    @jax.jit
    def both():
        params = spatial.init(jax.random.key(2), query, standardize(tokens))
        params = jax.tree.map(lambda leaf: leaf + 0.1, params)
        _, first = spatial.apply(params, query, standardize(tokens), mutable="intermediates")
        context = tokens.transpose(1, 2, 0, 3)  # [S, B, 1+N, C]
        _, second = cross.apply(params, query[:, :, None], context, mutable="intermediates")
        return tuple(sown["intermediates"]["attention"]["weights"][0] for sown in (first, second))

    weights, expected = both()  # [heads, 1+N, S, B], [S, B, heads, 1, 1+N]
    np.testing.assert_allclose(weights.transpose(2, 3, 0, 1), expected[..., 0, :], rtol=1e-4)


def test_evidence_is_that_of_the_last_layer_and_of_the_frames_that_clip_sees(model):
    views = small_models.video(num_clips=2)
    evidence, maps = explain(model, "x.mp4", views), model.attention(views)
    np.testing.assert_array_equal(evidence.frames, views[:, ::2])
    np.testing.assert_allclose(evidence.frame_weights, maps.frames[:, -1], rtol=1e-4)
    np.testing.assert_allclose(evidence.patch_weights, maps.patches[:, -1], rtol=1e-4)
    np.testing.assert_allclose(explain(model, "x.mp4", views, 0).frame_weights, maps.frames[:, 0], rtol=1e-4)


def test_only_dist_has_attention_maps(tmp_path):
    clip_weights.save_huggingface(small_models.clip_model(), tmp_path / "clip")
    with pytest.raises(UserError, match="'none' has no pooling layers"):
        dist_jax.load(tmp_path / "clip").attention(small_models.video())


@pytest.mark.parametrize(
    ("mask", "share"),
    [
        (np.s_[:, :], 1.0),
        (np.s_[:4, :4], 0.5),  # 0.4 of 0.8: the class token does not count
        (np.s_[:, :4], 0.75),
        (np.s_[:4, :2], 0.25),  # half of the first patch
        (np.s_[4:, 4:], 0.0),
    ],
)
def test_weight_inside_a_mask(mask, share):
    pixels = np.zeros((1, 1, 8, 8))
    pixels[0, 0][mask] = 1
    np.testing.assert_allclose(weight_inside(one_frame(), pixels), [[share]], rtol=1e-6)


def test_a_heat_map_shows_the_colour_of_each_patch_on_its_pixels():
    frames = np.zeros((1, 1, 4, 4, 3), np.uint8)
    colours = np.zeros((1, 1, 2, 2, 3))
    colours[0, 0, 1, 0] = 1
    image = evidence_plots.heat_maps(frames, colours)[0, 0]
    assert (image[2:, :2] == round(255 * 0.65)).all()
    assert image[:2].max() == image[2:, 2:].max() == 0


def test_each_video_has_a_picture(model, tmp_path):
    pictures = evidence_plots.EvidencePictures(model, str(tmp_path / "out.png"))
    views = small_models.video(num_clips=1)
    for _ in range(2):
        pictures.add(Prediction("a $x$\\y{.mp4", np.zeros((1, 4), int), views, ["a"], np.ones(1, np.float32)))
    assert {file.name for file in tmp_path.iterdir()} == {"out.png", "out-2.png"}
    assert matplotlib.image.imread(tmp_path / "out.png")[..., :3].min() < 0.5


def test_long_views_continue_in_the_next_row(tmp_path):
    heights = []
    for num_frames in (8, 9):
        frames = np.zeros((1, num_frames, 8, 8, 3), np.uint8)
        weights = np.full((1, num_frames), 1 / num_frames, np.float32)
        evidence = Evidence("x.mp4", frames, weights, np.full((1, num_frames, 2, 2), 0.2, np.float32))
        evidence_plots.plot_evidence(evidence, str(tmp_path / "out.png"))
        heights.append(matplotlib.image.imread(tmp_path / "out.png").shape[0])
    assert heights[1] > 1.7 * heights[0]


def test_an_unknown_image_format_raises_an_error(tmp_path):
    with pytest.raises(UserError, match=r"--explain .*out\.abc"):
        evidence_plots.plot_evidence(one_frame(), str(tmp_path / "out.abc"))
