"""The training step: equal results on all meshes and with gradient accumulation; no CLIP parameters in its state."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from helpers.small_models import make_config, random_batch

from dist_jax.cost import hlo
from dist_jax.cost.collectives import collectives
from dist_jax.distributed import sharding
from dist_jax.distributed.mesh import make_mesh
from dist_jax.evaluation.eval_step import eval_step
from dist_jax.training.augment import draw
from dist_jax.training.optimizer import lr_schedule, make_optimizer
from dist_jax.training.train_step import TrainStep
from dist_jax.workdir.train_state import TrainState

# Optax needs standard dtype promotion: it raises Python numbers to integer powers.
pytestmark = [pytest.mark.usefixtures("standard_promotion"), pytest.mark.xdist_group("test_steps")]


def make_train_step(model, config, replicated=None) -> TrainStep:
    learning_rate = lr_schedule(config.optimizer, config.epochs, epochs_per_step=1 / 8)
    return TrainStep(
        model, make_optimizer(config.optimizer), learning_rate, ml_collections.FrozenConfigDict(config), replicated
    )


class ReferenceRun(NamedTuple):
    train_step: TrainStep
    step_fn: Callable  # the jitted train_step
    losses: np.ndarray  # [num_steps]
    states: list[TrainState]  # [1 + num_steps], the first one before all steps


@pytest.fixture(scope="module")
def reference(tiny_model, tiny_frozen, tiny_text) -> ReferenceRun:
    """Ten steps on one device, with a moving average of the parameters."""
    config = make_config()
    config.ema_decay = 0.75
    with jax.numpy_dtype_promotion("standard"):
        train_step = make_train_step(tiny_model, config)
        state = jax.jit(train_step.init)(jax.random.key(0))
        step_fn = jax.jit(train_step)
        losses, states = [], [state]
        for step in range(10):
            state, metrics = step_fn(state, tiny_frozen, {"label": tiny_text}, random_batch(step))
            losses.append(float(metrics["loss"]))
            states.append(state)
    return ReferenceRun(train_step, step_fn, np.asarray(losses), states)


def run(
    train_step: TrainStep, frozen, text, state: TrainState, num_steps: int, mesh=None
) -> tuple[np.ndarray, TrainState]:
    """Trains from `state`, without its moving average. Returns the losses and the last state."""
    state = state.replace(ema=None)
    if mesh is None:
        step_fn = jax.jit(train_step)
    else:
        state_shardings = sharding.tree_shardings(mesh, state)
        state = sharding.place_tree(mesh, state)
        step_fn = jax.jit(train_step, donate_argnums=0, out_shardings=(state_shardings, sharding.replicated(mesh)))
        frozen = jax.device_put(frozen, sharding.tree_shardings(mesh, frozen))
        text = jax.device_put(text, sharding.replicated(mesh))
    losses = []
    for step in range(num_steps):
        batch = random_batch(step)
        if mesh is not None:
            batch = jax.device_put(batch, sharding.batch_sharding(mesh))
        state, metrics = step_fn(state, frozen, {"label": text}, batch)
        losses.append(float(metrics["loss"]))
    return np.asarray(losses), state


def mesh_of(config, data: int, fsdp: int = 1, tensor: int = 1):
    config.mesh.update(data=data, fsdp=fsdp, tensor=tensor)
    return make_mesh(config.mesh, jax.devices()[: data * fsdp * tensor])


def test_ten_steps_on_eight_devices_equal_ten_on_one(reference, tiny_model, tiny_frozen, tiny_text, tiny_config):
    mesh = mesh_of(tiny_config, 8)
    train_step = make_train_step(dataclasses.replace(tiny_model, mesh=mesh), tiny_config)
    losses, _ = run(train_step, tiny_frozen, tiny_text, reference.states[0], 10, mesh)
    np.testing.assert_allclose(losses, reference.losses, rtol=1e-5)
    assert not np.allclose(losses[1:], losses[:-1])  # the loss changes


@pytest.mark.parametrize("mesh_shape", [(2, 2, 2), (1, 4, 2)])
def test_sharded_parameters_give_the_same_losses(
    mesh_shape, reference, tiny_model, tiny_frozen, tiny_text, tiny_config
):
    mesh = mesh_of(tiny_config, *mesh_shape)
    train_step = make_train_step(dataclasses.replace(tiny_model, mesh=mesh), tiny_config)
    losses, state = run(train_step, tiny_frozen, tiny_text, reference.states[0], 4, mesh)
    np.testing.assert_allclose(losses, reference.losses[:4], rtol=1e-5)
    kernel = state.params["layers"]["ffn"]["fc"]["kernel"]
    assert kernel.addressable_shards[0].data.shape[1] == kernel.shape[1] // mesh_shape[1]


def test_mixing_moves_no_clip_between_devices(tiny_model, tiny_frozen, tiny_text, tiny_config):
    tiny_config.update(batch_size=32, grad_accum_steps=2)
    tiny_config.mix.group_size = 32  # one group on all devices: four clips each, two in each part of the batch
    mesh = mesh_of(tiny_config, 8)
    replicated = sharding.replicated(mesh)
    train_step = make_train_step(dataclasses.replace(tiny_model, mesh=mesh), tiny_config, replicated)
    batch = jax.device_put(random_batch(0, 32), sharding.batch_sharding(mesh))
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
        jax.eval_shape(train_step.init, jax.random.key(0)),
    )
    step_fn = jax.jit(train_step, out_shardings=replicated)
    constants = jax.device_put((tiny_frozen, {"label": tiny_text}), replicated)
    compiled = step_fn.lower(state, *constants, batch).compile()
    assert {collective.kind for collective in collectives(hlo.parse(compiled.as_text()))} == {"all-reduce"}


@pytest.mark.parametrize("grad_accum_steps", [2, 4])
def test_gradient_accumulation_gives_the_same_losses_and_parameters(
    grad_accum_steps, reference, tiny_model, tiny_frozen, tiny_text, tiny_config
):
    tiny_config.grad_accum_steps = grad_accum_steps
    train_step = make_train_step(tiny_model, tiny_config)
    losses, state = run(train_step, tiny_frozen, tiny_text, reference.states[0], 5)
    np.testing.assert_allclose(losses, reference.losses[:5], rtol=1e-5)
    expected_params = jax.tree.leaves(reference.states[5].params)
    params = jax.tree_util.tree_flatten_with_path(state.params)[0]
    for (path, actual), expected in zip(params, expected_params, strict=True):
        if not is_key_bias(path):  # Adam scales its gradient, a rounding error, to a full step
            np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-5, err_msg=sharding.path_name(path))


def is_key_bias(path: tuple) -> bool:
    """Whether the exact gradient is 0: a key bias adds the same value to all scores of a query before the softmax."""
    return sharding.path_name(path).endswith("attention/key/bias")


def test_the_state_contains_no_frozen_parameters(tiny_model, tiny_frozen, tiny_text, tiny_config):
    state = jax.eval_shape(lambda: make_train_step(tiny_model, tiny_config).init(jax.random.key(0)))
    names = {sharding.path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]}
    assert not any("blocks" in name or "vision" in name for name in names)
    num_values = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    num_counters = 2  # the step, and the count of Adam
    assert num_values(state) == 3 * num_values(state.params) + num_counters


def test_all_parameters_have_gradients_except_the_last_integration_to_temporal_linear(
    reference, tiny_frozen, tiny_text
):
    model, params = reference.train_step.model, reference.states[0].params
    video = jax.random.normal(jax.random.key(1), (2, 4, 8, 8, 3))
    loss = lambda params, frozen: jnp.sum(jnp.sin(model.logits(params, frozen, {"label": tiny_text}, video)["label"]))
    grads, frozen_grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, tiny_frozen)
    to_temporal = grads["layers"].pop("to_temporal")
    assert all(np.any(leaf[:-1] != 0) and np.all(leaf[-1] == 0) for leaf in jax.tree.leaves(to_temporal))
    grads_with_path = jax.tree_util.tree_flatten_with_path(grads)[0]
    assert all(is_key_bias(path) for path, leaf in grads_with_path if np.abs(leaf).max() < 1e-7)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(frozen_grads["vision"]))


def test_the_moving_average_of_the_parameters_is_exact(reference):
    expected = reference.states[0].params
    for state in reference.states[1:]:
        expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, expected, state.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.ema, expected)


def test_a_step_with_a_nonfinite_loss_changes_only_the_step_number(reference, tiny_frozen, tiny_text):
    state = reference.states[3]
    invalid_frozen = tiny_frozen | {"logit_scale": jnp.asarray(jnp.inf)}
    next_state, metrics = reference.step_fn(state, invalid_frozen, {"label": tiny_text}, random_batch(3))
    assert metrics["skipped"] == 1
    assert next_state.step == 4
    jax.tree.map(np.testing.assert_array_equal, next_state.replace(step=state.step), state)


def test_evaluation_returns_the_logits_of_each_view(reference, tiny_model, tiny_frozen, tiny_text):
    params, text = reference.states[0].params, {"label": tiny_text}
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 8, 8, 3), dtype=np.uint8)
    logits = jax.jit(functools.partial(eval_step, tiny_model, 0.0))(params, tiny_frozen, text, video)
    assert [*logits] == ["model"]
    views = jax.jit(lambda clips: tiny_model.logits(params, tiny_frozen, text, tiny_model.normalize(clips))["label"])
    expected = np.stack([views(video[:, view]) for view in range(3)], axis=1)
    np.testing.assert_allclose(logits["model"]["label"], expected, rtol=1e-4, atol=1e-4)


def test_mixed_dist_and_plain_logits_come_from_one_evaluation(reference, tiny_model, tiny_frozen, tiny_text):
    params, text = reference.states[0].params, {"label": tiny_text}
    video = np.random.default_rng(1).integers(0, 256, (2, 1, 4, 8, 8, 3), dtype=np.uint8)
    evaluate = lambda weight: jax.jit(functools.partial(eval_step, tiny_model, weight))(
        params, tiny_frozen, text, video
    )
    by_weight = {weight: evaluate(weight) for weight in (0.0, 0.25, 1.0)}
    mixed = by_weight[0.25]
    for name, weight in (("dist", 0.0), ("clip", 1.0)):
        np.testing.assert_allclose(mixed[name]["label"], by_weight[weight]["model"]["label"], rtol=1e-4, atol=1e-4)
    expected = 0.75 * mixed["dist"]["label"] + 0.25 * mixed["clip"]["label"]
    np.testing.assert_allclose(mixed["model"]["label"], expected, rtol=1e-5)


def test_the_losses_of_two_labels_are_added_and_each_has_its_projection(
    reference, tiny_model, tiny_frozen, tiny_text, tiny_config
):
    tiny_config.data.label_key = "verb,noun"
    tiny_config.mix.update(mixup_alpha=0.0, cutmix_alpha=0.0, label_smoothing=0.0)
    tiny_config.augment.grayscale_prob = 0.0
    params, batch = reference.states[0].params, random_batch(0)
    labels = {"verb": batch["labels"]["label"], "noun": (batch["labels"]["label"] + 1) % 3}
    text = {"verb": tiny_text, "noun": tiny_text[:3]}
    projections = {"verb": params["proj"], "noun": jax.random.normal(jax.random.key(9), params["proj"].shape) * 0.1}
    losses, accuracies = [], []
    for name, proj in projections.items():  # networks with one label
        clips = tiny_model.normalize(batch["video"])
        logits = jax.jit(tiny_model.logits)(params | {"proj": proj}, tiny_frozen, {"label": text[name]}, clips)["label"]
        losses.append(-np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), labels[name][:, None], axis=1).mean())
        accuracies.append((np.argmax(logits, axis=1) == labels[name]).mean())

    dist = dataclasses.replace(tiny_model.dist, num_labels=2)
    model = dataclasses.replace(tiny_model, dist=dist, label_names=("verb", "noun"))
    train_step = make_train_step(model, tiny_config)
    state = train_step.state_from(params | {"proj": jnp.concatenate([*projections.values()], axis=1)})
    _, metrics = jax.jit(train_step)(state, tiny_frozen, text, {"video": batch["video"], "labels": labels})
    np.testing.assert_allclose(metrics["loss"], sum(losses), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(accuracies), rtol=1e-6)


def test_random_draws_depend_only_on_the_step(tiny_model, tiny_config):
    first, same, other = (draw(tiny_config, tiny_model.backbone.resolution, jnp.asarray(step)) for step in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, first, same)
    assert not np.allclose(first.mix.target_weight, other.mix.target_weight)
