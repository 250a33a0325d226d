"""The training step: the same numbers on any mesh and in any number of parts, and nothing of CLIP in its state."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from helpers.collectives import collectives
from helpers.small_models import make_config, random_batch

from dist_jax.distributed import sharding
from dist_jax.distributed.mesh import make_mesh
from dist_jax.evaluation.eval_step import eval_step
from dist_jax.training.augment import draw
from dist_jax.training.optimizer import lr_schedule, make_optimizer
from dist_jax.training.train_step import TrainStep
from dist_jax.workdir.train_state import TrainState

# Optax raises Python numbers to integer powers, which strict promotion refuses; the network itself is tested strictly.
pytestmark = [pytest.mark.usefixtures("standard_promotion"), pytest.mark.xdist_group("test_steps")]


def trainer_of(model, config, replicated=None) -> TrainStep:
    optimizer, rate = make_optimizer(config.optimizer), lr_schedule(config.optimizer, config.epochs, 1 / 8)
    return TrainStep(model, optimizer, rate, ml_collections.FrozenConfigDict(config), replicated)


class Trained(NamedTuple):
    """What some steps with `clips` gave."""

    trainer: TrainStep
    step: Callable  # compiled
    losses: np.ndarray  # [steps]
    states: list[TrainState]  # [1 + steps], the first before any step


@pytest.fixture(scope="module")
def reference(tiny_model, tiny_frozen, tiny_text) -> Trained:
    """Ten steps on one device, which keep an average of the parameters."""
    config = make_config()
    config.ema_decay = 0.75
    with jax.numpy_dtype_promotion("standard"):
        trainer = trainer_of(tiny_model, config)
        state = jax.jit(trainer.init)(jax.random.key(0))
        step = jax.jit(trainer)
        losses, states = [], [state]
        for number in range(10):
            state, metrics = step(state, tiny_frozen, {"label": tiny_text}, random_batch(number))
            losses.append(float(metrics["loss"]))
            states.append(state)
    return Trained(trainer, step, np.asarray(losses), states)


def run(trainer: TrainStep, frozen, text, first: TrainState, steps: int, mesh=None) -> tuple[np.ndarray, TrainState]:
    """Trains some steps from `first`, which has an average that is left out; the losses and the final state."""
    state = first.replace(ema=None)
    if mesh is None:
        step = jax.jit(trainer)
    else:
        layout = sharding.tree_shardings(mesh, state)
        state = sharding.place_tree(mesh, state)
        step = jax.jit(trainer, donate_argnums=0, out_shardings=(layout, sharding.replicated(mesh)))
        frozen = jax.device_put(frozen, sharding.tree_shardings(mesh, frozen))
        text = jax.device_put(text, sharding.replicated(mesh))
    losses = []
    for number in range(steps):
        batch = random_batch(number)
        if mesh is not None:
            batch = jax.device_put(batch, sharding.batch_sharding(mesh))
        state, metrics = step(state, frozen, {"label": text}, batch)
        losses.append(float(metrics["loss"]))
    return np.asarray(losses), state


def mesh_of(config, data: int, fsdp: int = 1, tensor: int = 1):
    config.mesh.update(data=data, fsdp=fsdp, tensor=tensor)
    return make_mesh(config.mesh, jax.devices()[: data * fsdp * tensor])


def test_ten_steps_on_eight_devices_equal_ten_on_one(reference, tiny_model, tiny_frozen, tiny_text, tiny_config):
    mesh = mesh_of(tiny_config, 8)
    eight, _ = run(trainer_of(tiny_model, tiny_config), tiny_frozen, tiny_text, reference.states[0], 10, mesh)
    np.testing.assert_allclose(eight, reference.losses, rtol=1e-5)
    assert not np.allclose(eight[1:], eight[:-1])  # it is training on something


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 4, 2)])
def test_parameters_spread_over_fsdp_and_tensor_give_the_same_losses(
    shape, reference, tiny_model, tiny_frozen, tiny_text, tiny_config
):
    trainer, mesh = trainer_of(tiny_model, tiny_config), mesh_of(tiny_config, *shape)
    spread, state = run(trainer, tiny_frozen, tiny_text, reference.states[0], 4, mesh)
    np.testing.assert_allclose(spread, reference.losses[:4], rtol=1e-5)
    kernel = state.params["layers"]["ffn"]["fc"]["kernel"]
    assert kernel.addressable_shards[0].data.shape[1] == kernel.shape[1] // shape[1]


def test_mixing_sends_no_clip_though_a_group_and_a_part_span_all_devices(
    tiny_model, tiny_frozen, tiny_text, tiny_config
):
    tiny_config.update(batch_size=32, grad_accum_steps=2)
    tiny_config.mix.group_size = 32  # a device holds four clips of it, two in each part
    mesh = mesh_of(tiny_config, 8)
    trainer = trainer_of(tiny_model, tiny_config, sharding.replicated(mesh))
    batch = jax.device_put(random_batch(0, 32), sharding.batch_sharding(mesh))
    layout = sharding.replicated(mesh)
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout),
        jax.eval_shape(trainer.init, jax.random.key(0)),
    )
    step = jax.jit(trainer, out_shardings=layout)
    compiled = step.lower(state, *jax.device_put((tiny_frozen, {"label": tiny_text}), layout), batch).compile()
    assert {one.kind for one in collectives(compiled.as_text())} == {"all-reduce"}


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_changes_nothing(parts, reference, tiny_model, tiny_frozen, tiny_text, tiny_config):
    tiny_config.grad_accum_steps = parts
    trainer = trainer_of(tiny_model, tiny_config)
    losses, state_of_parts = run(trainer, tiny_frozen, tiny_text, reference.states[0], 5)
    np.testing.assert_allclose(losses, reference.losses[:5], rtol=1e-5)
    state = reference.states[5]
    ours, theirs = (jax.tree_util.tree_flatten_with_path(one.params)[0] for one in (state, state_of_parts))
    for (path, a), (_, b) in zip(ours, theirs, strict=True):
        # A key's bias moves all scores of a query alike: its gradient is rounding, which Adam makes a whole step of.
        if not sharding.path_name(path).endswith("attention/key/bias"):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5, err_msg=sharding.path_name(path))


def test_the_state_holds_no_frozen_parameter(tiny_model, tiny_frozen, tiny_text, tiny_config):
    state = jax.eval_shape(lambda: trainer_of(tiny_model, tiny_config).init(jax.random.key(0)))
    names = {sharding.path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]}
    assert not any("blocks" in name or "vision" in name for name in names)
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    counters = 2  # the step and Adam's
    assert size(state) == 3 * size(state.params) + counters


def test_gradients_reach_every_parameter_but_the_last_exchange(reference, tiny_frozen, tiny_text):
    trainer, params = reference.trainer, reference.states[0].params
    video = jax.random.normal(jax.random.key(1), (2, 4, 8, 8, 3))
    loss = lambda params, frozen: jnp.sum(jnp.sin(trainer.model.logits(params, frozen, tiny_text, video)))
    grads, of_frozen = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, tiny_frozen)
    exchange = grads["layers"].pop("to_temporal")
    assert all(np.any(leaf[:-1] != 0) and np.all(leaf[-1] == 0) for leaf in jax.tree.leaves(exchange))
    # A key's bias moves all scores of a query alike, so its gradient is zero but for rounding.
    silent = [
        sharding.path_name(path)
        for path, leaf in jax.tree_util.tree_flatten_with_path(grads)[0]
        if np.abs(leaf).max() < 1e-7
    ]
    assert all(name.endswith("attention/key/bias") for name in silent)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(of_frozen["vision"]))


def test_the_average_of_parameters_is_exact(reference):
    expected = reference.states[0].params
    for state in reference.states[1:]:
        expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, expected, state.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.ema, expected)


def test_a_loss_that_is_not_finite_changes_nothing_but_the_steps_number(reference, tiny_frozen, tiny_text):
    state = reference.states[3]
    broken = tiny_frozen | {"logit_scale": jnp.asarray(jnp.inf)}
    after, metrics = reference.step(state, broken, {"label": tiny_text}, random_batch(3))
    assert metrics["skipped"] == 1
    assert after.step == 4  # the schedule goes on
    jax.tree.map(np.testing.assert_array_equal, after.replace(step=state.step), state)


def test_views_are_summed_after_the_softmax(reference, tiny_model, tiny_frozen, tiny_text):
    params = reference.states[0].params
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 8, 8, 3), dtype=np.uint8)
    step = jax.jit(functools.partial(eval_step, tiny_model, 0.0))
    scores = step(params, tiny_frozen, tiny_text, video)
    views = [step(params, tiny_frozen, tiny_text, video[:, [v]]) for v in range(3)]
    np.testing.assert_allclose(scores, sum(views), rtol=1e-5)
    np.testing.assert_allclose(np.sum(scores, axis=1), 3.0, rtol=1e-5)


def test_a_step_draws_anew_but_always_the_same(tiny_model, tiny_config):
    first, again, other = (draw(tiny_config, tiny_model.backbone.resolution, jnp.asarray(step)) for step in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.allclose(first.mix.target_weight, other.mix.target_weight)
