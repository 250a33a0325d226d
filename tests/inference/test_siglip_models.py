"""Tests of SigLIP in use: zero-shot, DiST on it, model directories, training."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from helpers import siglip_files, small_models
from helpers.siglip_files import TEXT, VISION

import dist_jax
from dist_jax import convert
from dist_jax.cost import programs
from dist_jax.distributed.mesh import make_mesh
from dist_jax.errors import UserError
from dist_jax.model_setup import abstract_setup
from dist_jax.models.backbones.siglip import SiglipBackbone
from dist_jax.models.video_model import VideoModel
from dist_jax.training.optimizer import lr_schedule, make_optimizer
from dist_jax.training.train_step import TrainStep
from dist_jax.weights import dist_official, model_directory
from dist_jax.weights.published_sizes import PUBLISHED

CLASSES = ("a dog", "x-ray", "surfing")
DIST = dataclasses.replace(small_models.DIST, backbone_width=64, embed_dim=64, num_pooling_layers=1)
VIDEO = small_models.video(2)  # 4 frames


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> str:
    return siglip_files.write_siglip(tmp_path_factory.mktemp("siglip"))


@pytest.fixture(scope="module")
def trained(directory) -> model_directory.Model:
    """A DiST model on SigLIP with random parameters."""
    params = small_models.random_params(dist_official.param_shapes(DIST, num_prefix_tokens=0), seed=1)
    siglip = dataclasses.replace(siglip_files.siglip_model(), tokenizer=directory)
    return convert.with_classes(model_directory.Model(DIST, params, siglip), CLASSES)


def test_zero_shot_logits_are_the_mean_of_scaled_cosines_plus_the_bias(directory):
    model = dist_jax.load(directory, num_frames=4)
    backbone, params = SiglipBackbone(VISION, TEXT), siglip_files.siglip_model().params
    frames = jnp.asarray(VIDEO.reshape(-1, 1, 8, 8, 3), jnp.float32) / 127.5 - 1  # mean and deviation 0.5
    pooled = backbone.frame_embeddings(params, backbone.features(params, frames, (2,))[0, 0])
    images = np.asarray(pooled / jnp.linalg.norm(pooled, axis=1, keepdims=True)).reshape(2, 4, -1)
    texts = np.asarray(model.encode_text(list(CLASSES)))
    expected = 10 * images.mean(axis=1) @ texts.T - 4
    np.testing.assert_allclose(model.logits(VIDEO, texts), expected, atol=1e-4)
    exponentials = np.exp(expected)  # the bias is the same for all classes
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.classify(VIDEO, CLASSES), probabilities, atol=1e-4)


def test_vectors_give_the_logits_of_any_texts_with_the_bias(directory):
    model = dist_jax.load(directory, num_frames=4)
    texts = np.asarray(model.encode_text(list(CLASSES)))
    logits = (np.asarray(model.logit_vectors(VIDEO)) - model.logit_bias) @ texts.T + model.logit_bias
    assert model.logit_bias == -4
    np.testing.assert_allclose(logits, model.logits(VIDEO, texts), atol=1e-4)


@pytest.mark.slow
def test_a_model_directory_holds_the_kind_of_its_backbone(trained, tmp_path):
    model_directory.write(tmp_path / "model", trained)
    read = model_directory.read(tmp_path / "model")
    assert (read.clip_model.kind, read.clip_model.vision) == ("siglip", VISION)
    config = (tmp_path / "model" / "config.json").read_text()
    model = dist_jax.load(tmp_path / "model")
    assert model.features(VIDEO).shape == (3, 2, 2, 4, 64)  # no class token
    logits = model.logits(VIDEO)
    np.testing.assert_allclose(model.logits(VIDEO, model.encode_text(list(CLASSES))), logits, atol=1e-4)
    assert model.attention(VIDEO).patches.sum(axis=(-2, -1)) == pytest.approx(1)
    (tmp_path / "model" / "config.json").write_text(config.replace('"siglip"', '"other"'))
    with pytest.raises(UserError, match="unknown backbone 'other', this dist_jax has siglip, pe, clip"):
        model_directory.read(tmp_path / "model")


def test_the_probability_of_one_of_several_labels_contains_the_bias(trained):
    model = small_models.predictor(dataclasses.replace(trained, multi_label=True))
    scaled = 10 * model.encode_video(VIDEO) @ trained.text_features.T
    np.testing.assert_allclose(model.classify(VIDEO), jax.nn.sigmoid(scaled - 4), atol=1e-4)


def test_the_published_pytorch_format_refuses_it(trained, tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(UserError, match="it is not a CLIP, but a backbone of the kind siglip"):
        convert.write_pytorch(tmp_path / "x.pyth", trained)


@pytest.mark.parametrize(
    "name",
    ["google/siglip2-base-patch16-224", "google/siglip2-so400m-patch14-384", "google/siglip2-giant-opt-patch16-256"],
)
def test_shapes_and_dtypes_of_features_and_logits_of_the_published_models(name):
    backbone = dataclasses.replace(PUBLISHED[name], dtype=jnp.bfloat16)
    sizes = dict(layers=tuple(range(backbone.num_layers)), patch_size=backbone.patch_size, num_frames=16)
    sizes |= dict(backbone_width=backbone.width, embed_dim=backbone.embed_dim, integration_width=384)
    model = VideoModel(backbone, dataclasses.replace(DIST, **sizes), dtype=jnp.bfloat16)
    params, frozen_params = jax.eval_shape(model.init, jax.random.key(0)), backbone.param_shapes()
    video = jax.ShapeDtypeStruct((2, 16, backbone.resolution, backbone.resolution, 3), jnp.bfloat16)
    features = jax.eval_shape(model.features, frozen_params, video)
    assert features.shape == (backbone.num_layers, 8, 2, backbone.num_patches, backbone.width)
    assert features.dtype == jnp.bfloat16
    text = {"label": jax.ShapeDtypeStruct((400, backbone.embed_dim), jnp.float32)}
    logits = jax.eval_shape(model.logits, params, frozen_params, text, video)["label"]
    assert (logits.shape, logits.dtype) == ((2, 400), jnp.float32)


def test_full_fine_tuning_is_refused():
    config = small_models.make_config()
    setup = abstract_setup(config, make_mesh(config.mesh, jax.devices()[:1]), SiglipBackbone(VISION), {"label": 5})
    with pytest.raises(UserError, match="full fine-tuning is written for CLIP"):
        programs.fine_tuning(setup)


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_a_training_step_lowers_the_loss(trained):
    config = small_models.make_config()
    config.batch_size, config.mix.mixup_alpha, config.mix.cutmix_alpha = 8, 0.0, 0.0
    model = VideoModel(SiglipBackbone(VISION), DIST)
    learning_rate = lr_schedule(config.optimizer, config.epochs, epochs_per_step=1 / 8)
    step = TrainStep(
        model, make_optimizer(config.optimizer), learning_rate, ml_collections.FrozenConfigDict(config), None
    )
    state = jax.jit(step.init)(jax.random.key(0))
    assert "class_token" not in state.params["layers"]
    params = {name: part for name, part in trained.clip_model.params.items() if name != "text"}
    text = jax.random.normal(jax.random.key(1), (small_models.NUM_CLASSES, 64))
    run, batch, losses = jax.jit(step), small_models.random_batch(0, 8), []
    for _ in range(12):
        state, metrics = run(state, params, {"label": text / jnp.linalg.norm(text, axis=1, keepdims=True)}, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.8 * losses[0]
