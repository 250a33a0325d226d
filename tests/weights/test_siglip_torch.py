"""Tests of SigLIP against PyTorch: Hugging Face's SiglipModel with random weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from helpers import torch_models
from helpers.torch_models import pixels, to_torch

from dist_jax.models.dist_network import DistConfig
from dist_jax.models.layers import unit
from dist_jax.models.video_model import VideoModel
from dist_jax.weights import backbones, siglip

TINY = {
    "vision_config": dict(
        hidden_size=32, intermediate_size=88, num_hidden_layers=3, num_attention_heads=4, image_size=22, patch_size=5
    ),
    "text_config": dict(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3, vocab_size=64,
        max_position_embeddings=12, projection_size=32,
    ),
}  # fmt: skip


def random_model(config: dict) -> "transformers.SiglipModel":
    """A SiglipModel with random parameters."""
    return torch_models.randomize(transformers.SiglipModel(transformers.SiglipConfig(**config)))


@pytest.fixture(scope="module")
def reference():
    return random_model(TINY)


@pytest.fixture(scope="module")
def saved(reference, tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("siglip")
    reference.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def loaded(saved):
    return backbones.load(saved)


TOKENS = np.random.default_rng(1).integers(0, 64, (4, 12))


assert_close = partial(torch_models.assert_close, tolerance=5e-6)


def assert_same_image_tower(loaded, reference, frames: np.ndarray) -> None:
    """Compares the stream after every block and the pooled vector; pixels that fill no patch have no effect."""
    backbone, layers = loaded.backbone(), tuple(range(loaded.vision.num_layers))
    cropped = jnp.asarray(frames[:, None, : backbone.resolution, : backbone.resolution])
    features = jax.jit(lambda params, frames: backbone.features(params, frames, layers))(loaded.params, cropped)
    with torch.no_grad():
        theirs = reference.vision_model(to_torch(frames), output_hidden_states=True)
    for ours, hidden in zip(features[:, 0], theirs.hidden_states[1:], strict=True):
        assert_close(ours, hidden)
    assert_close(backbone.frame_embeddings(loaded.params, features[-1, 0]), theirs.pooler_output)


def test_the_image_tower_equals_hugging_face(loaded, reference):
    assert (loaded.kind, loaded.vision.resolution, loaded.vision.num_patches) == ("siglip", 20, 16)
    assert_same_image_tower(loaded, reference, pixels(22))


def test_the_text_tower_equals_hugging_face(loaded, reference):
    ours = loaded.backbone().text_embeddings(loaded.params, jnp.asarray(TOKENS, jnp.int32))
    with torch.no_grad():
        assert_close(ours, reference.text_model(torch.from_numpy(TOKENS)).pooler_output)


def test_the_logits_equal_hugging_face(loaded, reference):
    backbone = loaded.backbone()
    dist = DistConfig(1, 1, (2,), 5, 32, 32, 64, 8, 1)
    text = unit(backbone.text_embeddings(loaded.params, jnp.asarray(TOKENS, jnp.int32)))
    video = jnp.asarray(pixels(22))[:, None, :20, :20]  # clips of one frame
    ours = VideoModel(backbone, dist, network_name="none").plain_logits(loaded.params, {"label": text}, video)
    with torch.no_grad():
        theirs = reference(input_ids=torch.from_numpy(TOKENS), pixel_values=to_torch(pixels(22)))
    assert_close(ours["label"], theirs.logits_per_image)


def test_interpolated_positions_equal_hugging_face(saved, reference):
    loaded = backbones.load(saved, resolution=35)
    backbone = loaded.backbone()
    last = backbone.features(loaded.params, jnp.asarray(pixels(35))[:, None], (2,))[0, 0]
    with torch.no_grad():
        theirs = reference.vision_model(to_torch(pixels(35)), interpolate_pos_encoding=True)
    assert_close(backbone.frame_summary(loaded.params, last), theirs.pooler_output)


def test_hugging_face_loads_a_saved_model(loaded, reference, tmp_path):
    siglip.save_huggingface(loaded, tmp_path)
    model, report = transformers.SiglipModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] | report["unexpected_keys"] | report["mismatched_keys"]
    pixel_values = to_torch(pixels(22))[..., :20, :20]  # the saved resolution has only complete patches
    with torch.no_grad():
        ours, theirs = (
            m(input_ids=torch.from_numpy(TOKENS), pixel_values=pixel_values) for m in (model.eval(), reference)
        )
    assert torch.equal(ours.logits_per_image, theirs.logits_per_image)


@pytest.mark.slow
def test_a_base_model_equals_hugging_face(tmp_path):
    reference = random_model({"vision_config": {}, "text_config": {"vocab_size": 1000}})  # the defaults are B/16-224
    reference.save_pretrained(tmp_path)
    loaded = backbones.load(str(tmp_path))
    assert (loaded.vision.width, loaded.vision.num_layers, loaded.vision.num_patches) == (768, 12, 196)
    assert_same_image_tower(loaded, reference, pixels(224)[:1])
