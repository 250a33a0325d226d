"""The whole network against figures of the published PyTorch one: forward, gradients and twelve optimizer steps."""

from functools import partial

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from golden.tiny import GOLDEN, TOKENS_SEED, inputs, state_dict

from dist_jax import config as settings
from dist_jax.models.layers import unit
from dist_jax.models.video_model import VideoModel
from dist_jax.training.losses import soft_cross_entropy
from dist_jax.training.optimizer import lr_schedule, make_optimizer, update
from dist_jax.weights import clip, dist_official, table

NETWORK = dist_official.NETWORK
AS_USERS_COMPILE = {"xla_cpu_use_fusion_emitters": True}  # conftest.py sets it otherwise, for less time


@pytest.fixture(scope="module")
def clip_model() -> clip.ClipModel:
    tensors = {name: value for name, value in state_dict().items() if not name.startswith(NETWORK)}
    return clip.from_openai(tensors, "golden")


@pytest.fixture(scope="module")
def network() -> tuple:
    names = {name.removeprefix(NETWORK): value for name, value in state_dict().items() if name.startswith(NETWORK)}
    config, params = dist_official.params_from_published(names, "golden")
    return config, jax.tree.map(jnp.asarray, params)


@pytest.fixture(scope="module")
def model(clip_model, network) -> VideoModel:
    return VideoModel(clip_model.backbone(), network[0])


@pytest.fixture(scope="module")
def text(clip_model) -> jax.Array:
    _, tokens, _ = inputs(TOKENS_SEED)
    return clip_model.backbone().text_embeddings(clip_model.params, jnp.asarray(tokens))  # [K, E]


def batch(model: VideoModel, seed: int) -> tuple[jax.Array, jax.Array]:
    video, _, soft_labels = inputs(seed)
    return model.normalize(jnp.asarray(video)), jnp.asarray(soft_labels)


def close(actual: jax.Array, golden: np.ndarray, tolerance: float) -> None:
    """Equal within `tolerance` of the largest golden value."""
    golden = np.asarray(golden)
    assert np.shape(actual) == golden.shape
    np.testing.assert_allclose(actual, golden, rtol=0, atol=tolerance * np.abs(golden).max())


def test_features_of_every_layer(model, clip_model):
    video, _ = batch(model, TOKENS_SEED)
    features = np.asarray(model.features(clip_model.params, video))  # [L, B, S, 1+N, D]
    assert len(features) == 3
    for layer, found in enumerate(features):
        tokens_first = np.moveaxis(found.reshape(-1, *found.shape[2:]), 0, 1)  # [1+N, B*S, D]
        size = GOLDEN[f"layer{layer}_abs"]
        np.testing.assert_allclose(tokens_first.mean(), GOLDEN[f"layer{layer}_mean"], rtol=0, atol=1e-6 * size)
        np.testing.assert_allclose(np.abs(tokens_first).mean(), size, rtol=1e-6)
        close(tokens_first[:2, :2, :8], GOLDEN[f"layer{layer}_slice"], 3e-6)


def test_frame_embeddings(model, clip_model):
    video, _ = batch(model, TOKENS_SEED)
    frames = video[:, :: model.dist.alpha].reshape(-1, *video.shape[2:])
    backbone = model.backbone
    last = backbone.features(clip_model.params, frames, (backbone.num_layers - 1,))[0]
    embeddings = backbone.frame_embeddings(clip_model.params, last)
    close(embeddings, GOLDEN["frame_embedding"], 3e-6)


def test_text_features(text):
    close(text, GOLDEN["text_features"], 3e-6)


def test_video_embedding(model, clip_model, network):
    video, _ = batch(model, TOKENS_SEED)
    close(unit(model.embed(network[1], clip_model.params, video)), GOLDEN["video_embedding"], 3e-6)


def test_logits(model, clip_model, network, text):
    video, _ = batch(model, TOKENS_SEED)
    close(model.logits(network[1], clip_model.params, text, video), GOLDEN["logits"], 3e-6)


@pytest.fixture(scope="module")
def loss_and_gradient(model, clip_model, text):
    @partial(jax.jit, compiler_options=AS_USERS_COMPILE)
    @jax.value_and_grad
    def compute(params: dict, video: jax.Array, soft_labels: jax.Array) -> jax.Array:
        logits = model.logits(params, clip_model.params, text, video)
        return jnp.mean(soft_cross_entropy(logits, soft_labels))

    return compute


def published_norms(tree: dict) -> dict[str, float]:
    """Norm of every tensor by its published name."""
    leaves = {path: np.asarray(leaf) for path, leaf in table.flatten(tree).items()}
    return {NETWORK + name: float(np.linalg.norm(x)) for name, x in table.to_theirs(dist_official.TABLE, leaves)}


def test_loss_and_the_gradient_of_every_parameter(model, loss_and_gradient, network):
    loss, gradient = loss_and_gradient(network[1], *batch(model, TOKENS_SEED))
    np.testing.assert_allclose(loss, GOLDEN["loss"], rtol=2e-6)
    norms = published_norms(gradient)
    golden = dict(zip(GOLDEN["grad_names"], GOLDEN["grad_norms"], strict=True))
    without_gradient = {name for name in norms if name not in golden}
    assert without_gradient == {f"{NETWORK}integration2temporal_nets.2.linear_fuse.{x}" for x in ("weight", "bias")}
    assert all(norms[name] == 0 for name in without_gradient)
    assert len(golden) == len(norms) - 2
    for name, norm in golden.items():
        np.testing.assert_allclose(norms[name], norm, rtol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def recipe() -> ml_collections.ConfigDict:
    optimizer = settings.defaults().optimizer
    optimizer.warmup_epochs = 4.0
    return optimizer


def test_twelve_steps_of_the_optimizer(model, loss_and_gradient, network, recipe):
    steps = len(GOLDEN["train_losses"])
    optimizer, rate = make_optimizer(recipe), lr_schedule(recipe, num_epochs=float(steps), epochs_per_step=1.0)

    @partial(jax.jit, compiler_options=AS_USERS_COMPILE)
    def step_of(step: int, gradient: dict, state: tuple, params: dict) -> tuple:
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of the step, an integer
            return update(optimizer, rate(step), gradient, state, params)

    params = network[1]
    state = optimizer.init(params)
    losses = []
    for step in range(steps):
        loss, gradient = loss_and_gradient(params, *batch(model, 1000 + step))
        losses.append(float(loss))
        params, state = step_of(step, gradient, state, params)
    np.testing.assert_allclose(losses, GOLDEN["train_losses"], rtol=1e-5)
    norms = published_norms(params)
    for (name, norm), golden in zip(sorted(norms.items()), GOLDEN["trained_norms"], strict=True):
        # Part of an in_proj_bias is the keys', whose gradient is rounding, which Adam makes a whole step of.
        np.testing.assert_allclose(norm, golden, rtol=1e-4 if name.endswith("in_proj_bias") else 5e-6, err_msg=name)
