"""Parity with the published PyTorch network (see golden/tiny.py): forward pass, gradients, twelve optimizer steps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.tiny import GOLDEN, TOKENS_SEED, inputs, state_dict

from dist_jax import config as settings
from dist_jax.models.dist_network import DistConfig
from dist_jax.models.layers import unit
from dist_jax.models.video_model import VideoModel
from dist_jax.training.losses import soft_cross_entropy
from dist_jax.training.optimizer import lr_schedule, make_optimizer, update
from dist_jax.weights import clip, dist_official, table

DIST_PREFIX = dist_official.DIST_PREFIX
COMPILER_OPTIONS = {"xla_cpu_use_fusion_emitters": True}  # XLA's default; conftest.py disables it to compile faster


@pytest.fixture(scope="module")
def clip_model() -> clip.ClipModel:
    tensors = {name: value for name, value in state_dict().items() if not name.startswith(DIST_PREFIX)}
    return clip.from_openai(tensors, "golden")


@pytest.fixture(scope="module")
def dist_network() -> tuple[DistConfig, dict]:
    tensors = {
        name.removeprefix(DIST_PREFIX): value for name, value in state_dict().items() if name.startswith(DIST_PREFIX)
    }
    config, params = dist_official.params_from_published(tensors, "golden")
    return config, jax.tree.map(jnp.asarray, params)


@pytest.fixture(scope="module")
def params(dist_network) -> dict:
    """Parameters of the DiST network."""
    return dist_network[1]


@pytest.fixture(scope="module")
def model(clip_model, dist_network) -> VideoModel:
    return VideoModel(clip_model.backbone(), dist_network[0])


@pytest.fixture(scope="module")
def text_features(clip_model) -> jax.Array:
    _, tokens, _ = inputs(TOKENS_SEED)
    return clip_model.backbone().text_embeddings(clip_model.params, jnp.asarray(tokens))  # [K, E]


def make_batch(model: VideoModel, seed: int) -> tuple[jax.Array, jax.Array]:
    """Normalized video [B, T, H, W, 3] and soft labels [B, K]."""
    video, _, soft_labels = inputs(seed)
    return model.normalize(jnp.asarray(video)), jnp.asarray(soft_labels)


def assert_close(actual: jax.Array, golden: np.ndarray, tolerance: float) -> None:
    """Asserts that the largest difference is at most `tolerance` times the largest absolute golden value."""
    golden = np.asarray(golden)
    assert np.shape(actual) == golden.shape
    np.testing.assert_allclose(actual, golden, rtol=0, atol=tolerance * np.abs(golden).max())


def test_features_of_every_layer_equal_the_published_ones(model, clip_model):
    video, _ = make_batch(model, TOKENS_SEED)
    features = np.asarray(model.features(clip_model.params, video)).swapaxes(1, 2)  # [L, B, S, 1+N, D]
    assert len(features) == 3
    for layer, layer_features in enumerate(features):
        tokens_first = np.moveaxis(layer_features.reshape(-1, *layer_features.shape[2:]), 0, 1)  # [1+N, B*S, D]
        mean_abs = GOLDEN[f"layer{layer}_abs"]
        np.testing.assert_allclose(tokens_first.mean(), GOLDEN[f"layer{layer}_mean"], rtol=0, atol=1e-6 * mean_abs)
        np.testing.assert_allclose(np.abs(tokens_first).mean(), mean_abs, rtol=1e-6)
        assert_close(tokens_first[:2, :2, :8], GOLDEN[f"layer{layer}_slice"], 3e-6)


def test_frame_embeddings_equal_the_published_ones(model, clip_model):
    video, _ = make_batch(model, TOKENS_SEED)
    frames = video[:, :: model.dist.alpha].reshape(-1, *video.shape[2:])
    backbone = model.backbone
    last_features = backbone.features(clip_model.params, frames[:, None], (backbone.num_layers - 1,))[0, 0]
    embeddings = backbone.frame_embeddings(clip_model.params, last_features)
    assert_close(embeddings, GOLDEN["frame_embedding"], 3e-6)


def test_text_features_equal_the_published_ones(text_features):
    assert_close(text_features, GOLDEN["text_features"], 3e-6)


def test_video_embedding_equals_the_published_one(model, clip_model, params):
    video, _ = make_batch(model, TOKENS_SEED)
    assert_close(unit(model.embed(params, clip_model.params, video)), GOLDEN["video_embedding"], 3e-6)


def test_logits_equal_the_published_ones(model, clip_model, params, text_features):
    video, _ = make_batch(model, TOKENS_SEED)
    logits = model.logits(params, clip_model.params, {"label": text_features}, video)
    assert_close(logits["label"], GOLDEN["logits"], 3e-6)


@pytest.fixture(scope="module")
def loss_and_grads(model, clip_model, text_features):
    @partial(jax.jit, compiler_options=COMPILER_OPTIONS)
    @jax.value_and_grad
    def compute(params: dict, video: jax.Array, soft_labels: jax.Array) -> jax.Array:
        logits = model.logits(params, clip_model.params, {"label": text_features}, video)
        return jnp.mean(soft_cross_entropy(logits["label"], soft_labels))

    return compute


def published_norms(tree: dict) -> dict[str, float]:
    """Published name -> norm, for every tensor of a tree like `params`."""
    leaves = {path: np.asarray(leaf) for path, leaf in table.flatten(tree).items()}
    return {DIST_PREFIX + name: float(np.linalg.norm(x)) for name, x in table.to_theirs(dist_official.TABLE, leaves)}


def test_loss_and_gradient_norms_equal_the_published_ones(model, loss_and_grads, params):
    loss, grads = loss_and_grads(params, *make_batch(model, TOKENS_SEED))
    np.testing.assert_allclose(loss, GOLDEN["loss"], rtol=2e-6)
    norms = published_norms(grads)
    golden_norms = dict(zip(GOLDEN["grad_names"], GOLDEN["grad_norms"], strict=True))
    names_without_grad = {name for name in norms if name not in golden_norms}
    assert names_without_grad == {
        f"{DIST_PREFIX}integration2temporal_nets.2.linear_fuse.{x}" for x in ("weight", "bias")
    }
    assert all(norms[name] == 0 for name in names_without_grad)
    assert len(golden_norms) == len(norms) - 2
    for name, golden_norm in golden_norms.items():
        np.testing.assert_allclose(norms[name], golden_norm, rtol=1e-5, err_msg=name)


def test_losses_and_parameter_norms_of_twelve_optimizer_steps_equal_the_published_ones(model, loss_and_grads, params):
    num_steps = len(GOLDEN["train_losses"])
    config = settings.defaults().optimizer
    config.warmup_epochs = 4.0
    optimizer = make_optimizer(config)
    learning_rate = lr_schedule(config, num_epochs=float(num_steps), epochs_per_step=1.0)

    @partial(jax.jit, compiler_options=COMPILER_OPTIONS)
    def update_params(step: int, grads: dict, opt_state: tuple, params: dict) -> tuple:
        with jax.numpy_dtype_promotion("standard"):  # Optax raises a float to the power of the step, an integer
            return update(optimizer, learning_rate(step), grads, opt_state, params)

    opt_state = optimizer.init(params)
    losses = []
    for step in range(num_steps):
        loss, grads = loss_and_grads(params, *make_batch(model, 1000 + step))
        losses.append(float(loss))
        params, opt_state = update_params(step, grads, opt_state, params)
    np.testing.assert_allclose(losses, GOLDEN["train_losses"], rtol=1e-5)
    norms = published_norms(params)
    for (name, norm), golden_norm in zip(sorted(norms.items()), GOLDEN["trained_norms"], strict=True):
        # in_proj_bias contains the key bias. Its gradient is a rounding error, which Adam scales to a full step.
        rtol = 1e-4 if name.endswith("in_proj_bias") else 5e-6
        np.testing.assert_allclose(norm, golden_norm, rtol=rtol, err_msg=name)
