"""Tests of dist_jax.load of a CLIP without trained network."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_models
from safetensors.numpy import save_file

import dist_jax
from dist_jax.errors import UserError
from dist_jax.models.backbones.clip import CLIP_MEAN, CLIP_STD
from dist_jax.weights import clip as clip_weights

TOKENS = np.array([[52, 3, 4, 53, 0], [52, 7, 53, 0, 0]])
VIDEO = small_models.video(2)  # 4 frames


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The CLIP of `small_models` as a Hugging Face directory with tokenizer."""
    folder = tmp_path_factory.mktemp("plain_clip")
    clip_weights.save_huggingface(small_models.clip_model(), folder)
    small_models.write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def model(directory):
    return dist_jax.load(directory, num_frames=4)


def test_it_has_eight_frames_by_default_and_no_classes(directory):
    model = dist_jax.load(str(directory))
    assert (model.num_frames, model.resolution, model.class_names) == (8, 8, ())
    assert model.for_frames(2).num_frames == 2
    with pytest.raises(UserError, match="the model has no class names; pass texts"):
        model.classify(small_models.video(1, dataclasses.replace(small_models.DIST, num_frames=8)))


@pytest.mark.slow
def test_embeddings_are_the_unit_mean_of_unit_frame_embeddings_and_logits_the_mean_of_cosines(model):
    one_frame = model.for_frames(1)
    frames = np.stack([one_frame.encode_video(VIDEO[:, t : t + 1]) for t in range(4)])  # [T, B, E]
    np.testing.assert_allclose(np.linalg.norm(frames, axis=-1), 1, rtol=1e-5)
    mean = frames.mean(axis=0)
    embedding = model.encode_video(VIDEO)
    np.testing.assert_allclose(embedding, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)
    text = model.encode_text(TOKENS)
    logits = model.logits(VIDEO, text)
    np.testing.assert_allclose(logits, 10 * mean @ np.asarray(text).T, atol=1e-4)
    exponentials = np.exp(np.asarray(logits))
    probabilities = model.classify(VIDEO, TOKENS, zero_shot_weight=0.3)  # no network to mix with
    np.testing.assert_allclose(probabilities, exponentials / exponentials.sum(axis=1, keepdims=True), rtol=1e-4)


def test_features_are_those_of_every_frame_and_block(model):
    features = model.features(VIDEO)
    assert (features.shape, features.dtype) == ((3, 2, 4, 1 + 4, 128), jnp.float32)  # [L, B, S, 1+N, D]


def test_an_openai_file_is_a_clip(directory, model, tmp_path):
    tensors = clip_weights.to_openai(clip_weights.load(str(directory)))
    # A scalar in the file marks OpenAI's archives: QuickGELU, heads of width 64.
    save_file(
        {name: np.array(x, order="C") for name, x in tensors.items()} | {"input_resolution": np.array(8)},
        tmp_path / "clip.safetensors",
    )
    other = dist_jax.load(tmp_path / "clip.safetensors", num_frames=4)
    np.testing.assert_allclose(other.encode_video(VIDEO), model.encode_video(VIDEO), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_frames=0), "num_frames=0: must be at least 1"),
        (dict(clip="other"), "is a CLIP without trained network; remove clip='other'"),
        (dict(label="verb"), "is a CLIP without trained network; remove .*label='verb'"),
    ],
)
def test_options_of_trained_models_are_refused(directory, options, message):
    with pytest.raises(UserError, match=message):
        dist_jax.load(directory, **options)


def test_a_hub_id_is_loaded_from_the_hub(directory, monkeypatch):
    monkeypatch.setattr("dist_jax.hub.download", lambda repository, patterns: directory)
    assert dist_jax.load("owner/clip").resolution == 8


def test_probabilities_equal_those_of_transformers(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    clip_weights.save_huggingface(small_models.clip_model(), tmp_path)
    reference = transformers.CLIPModel.from_pretrained(tmp_path).eval()
    mean, std = np.array(CLIP_MEAN, np.float32), np.array(CLIP_STD, np.float32)
    frames = ((VIDEO / np.float32(255) - mean) / std).reshape(8, 8, 8, 3).transpose(0, 3, 1, 2)  # [B * T, 3, H, W]
    with torch.no_grad():
        output = reference(
            input_ids=torch.from_numpy(TOKENS), pixel_values=torch.from_numpy(np.array(frames, np.float32))
        )
    expected = output.logits_per_image.reshape(2, 4, 2).mean(dim=1).softmax(dim=1)
    model = dist_jax.load(tmp_path, num_frames=4)
    np.testing.assert_allclose(model.classify(VIDEO, TOKENS), expected.numpy(), atol=1e-5)
