"""Tests of Perception Encoder in use: zero-shot, DiST on it, model directories."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import pe_files, small_models
from helpers.pe_files import TEXT, VISION, WITHOUT_CLASS_TOKEN

import dist_jax
from dist_jax import convert
from dist_jax.errors import UserError
from dist_jax.models.backbones.pe import PeBackbone
from dist_jax.models.backbones.pe_vision import PeVisionConfig
from dist_jax.weights import dist_official, model_directory

CLASSES = ("a dog", "a cat", "surfing")
DIST = dataclasses.replace(small_models.DIST, backbone_width=384, num_pooling_layers=1)
VIDEO = small_models.video(2)  # 4 frames
BOTH = pytest.mark.parametrize("vision", [VISION, WITHOUT_CLASS_TOKEN], ids=["class token", "none"])


def trained(vision: PeVisionConfig, tokenizer: str) -> model_directory.Model:
    """A DiST model on Perception Encoder with random parameters."""
    params = small_models.random_params(dist_official.param_shapes(DIST, vision.num_prefix_tokens), seed=1)
    backbone = dataclasses.replace(pe_files.pe_model(vision), tokenizer=tokenizer)
    return convert.with_classes(model_directory.Model(DIST, params, backbone), CLASSES)


@BOTH
def test_zero_shot_logits_are_the_mean_of_scaled_cosines(vision, tmp_path):
    model = dist_jax.load(pe_files.write_pe(tmp_path / "pe", vision), num_frames=4)
    backbone, params = PeBackbone(vision, TEXT), pe_files.pe_model(vision).params
    frames = jnp.asarray(VIDEO.reshape(-1, 1, 8, 8, 3), jnp.float32) / 127.5 - 1  # mean and deviation 0.5
    embeddings = backbone.frame_embeddings(params, backbone.features(params, frames, (2,))[0, 0])
    images = np.asarray(embeddings / jnp.linalg.norm(embeddings, axis=1, keepdims=True)).reshape(2, 4, -1)
    texts = np.asarray(model.encode_text(list(CLASSES)))
    np.testing.assert_allclose(model.logits(VIDEO, texts), 10 * images.mean(axis=1) @ texts.T, atol=1e-4)


def test_the_summary_of_a_frame_is_the_pooled_vector():
    backbone, params = PeBackbone(VISION), pe_files.pe_model().params
    frames = np.random.default_rng(0).standard_normal((2, 1, 8, 8, 3), np.float32)
    (last,) = backbone.features(params, frames, (2,))
    summary = backbone.frame_summary(params, last)
    assert summary.shape == (1, 2, VISION.width)
    projected = np.asarray(summary) @ params["vision"]["proj"]["kernel"]  # its bias is 0
    np.testing.assert_allclose(backbone.frame_embeddings(params, last), projected, atol=1e-5)
    assert not np.allclose(summary, last[..., 0, :], atol=0.1)  # not the class token


@BOTH
def test_a_converted_model_predicts_as_before(vision, tmp_path):
    original = trained(vision, pe_files.write_pe(tmp_path / "pe", vision))
    model_directory.write(tmp_path / "model", original)
    convert.main(["--input", str(tmp_path / "model"), "--output", str(tmp_path / "copy")])
    read = model_directory.read(tmp_path / "copy")
    assert (read.clip_model.kind, read.clip_model.vision, read.clip_model.text) == ("pe", vision, TEXT)
    model = dist_jax.load(tmp_path / "copy")
    num_tokens = vision.num_prefix_tokens + 4
    assert model.features(VIDEO).shape == (3, 2, 2, num_tokens, 384)
    assert ("class_token" in original.dist_params["layers"]) == vision.class_token
    logits = model.logits(VIDEO)
    np.testing.assert_array_equal(logits, small_models.predictor(original).logits(VIDEO))
    np.testing.assert_allclose(model.logits(VIDEO, model.encode_text(list(CLASSES))), logits, atol=1e-4)
    of_patches = model.attention(VIDEO).patches.sum(axis=(-2, -1))
    assert np.all(of_patches < 1) if vision.class_token else of_patches == pytest.approx(1)


def test_the_resolution_of_the_training_is_kept(tmp_path):
    vision = dataclasses.replace(VISION, resolution=12)
    assert (vision.num_patches, vision.trained_grid) == (9, 2)
    model_directory.write(tmp_path / "model", trained(vision, pe_files.write_pe(tmp_path / "pe")))
    assert model_directory.read(tmp_path / "model").clip_model.vision == vision


def test_the_published_pytorch_format_refuses_it(tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(UserError, match="it is not a CLIP, but a backbone of the kind pe"):
        convert.write_pytorch(tmp_path / "x.pyth", trained(VISION, pe_files.write_pe(tmp_path / "pe")))
