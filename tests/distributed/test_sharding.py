"""Where parameters and rows lie, and what the compiled training step sends between devices."""

import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from conftest import clips
from helpers import small_models
from helpers.collectives import collectives

from dist_jax import config as settings
from dist_jax.distributed import sharding
from dist_jax.distributed.mesh import make_mesh
from dist_jax.errors import UserError
from dist_jax.training.optimizer import lr_schedule, make_optimizer
from dist_jax.training.train_step import TrainStep


def mesh_of(data: int, fsdp: int = 1, tensor: int = 1):
    config = settings.defaults()
    config.mesh.update(data=data, fsdp=fsdp, tensor=tensor)
    return make_mesh(config.mesh)


def step_collectives(mesh, model, config, frozen, text):
    """Compiles the training step without running it."""
    trainer = TrainStep(
        model,
        make_optimizer(config.optimizer),
        lr_schedule(config.optimizer, config.epochs, 1 / 8),
        ml_collections.FrozenConfigDict(config),
        sharding.replicated(mesh),
    )

    def placed(tree, layout):
        return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree, layout)

    state = jax.eval_shape(trainer.init, jax.random.key(0))
    layout = sharding.tree_shardings(mesh, state)
    batch = clips(0, config.batch_size)
    arguments = (
        placed(state, layout),
        placed(frozen, sharding.tree_shardings(mesh, frozen)),
        {"label": jax.ShapeDtypeStruct(text.shape, text.dtype, sharding=sharding.replicated(mesh))},
        placed(batch, jax.tree.map(lambda _: sharding.batch_sharding(mesh), batch)),
    )
    step = jax.jit(trainer, donate_argnums=0, out_shardings=(layout, sharding.replicated(mesh)))
    return collectives(step.lower(*arguments).compile().as_text()), state


@pytest.mark.usefixtures("standard_promotion")
def test_data_parallel_steps_send_the_gradients_of_the_network_and_two_numbers(
    tiny_model, tiny_frozen, tiny_text, tiny_config
):
    tiny_config.augment.color_jitter = 0.2
    tiny_config.optimizer.grad_clip_norm = 1.0
    tiny_config.ema_decay = 0.9
    found, state = step_collectives(mesh_of(8), tiny_model, tiny_config, tiny_frozen, tiny_text)
    assert {one.kind for one in found} == {"all-reduce"}
    numbers = sum(one.shapes.count(("f32", ())) for one in found)  # the loss and the accuracy
    assert numbers == 2
    of_network = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    d = tiny_model.dist
    # Query and context share a LayerNorm, whose two gradients are summed up before they are added: scale and bias.
    twice = 4 * 2 * 2 * d.num_pooling_layers * d.integration_width
    assert sum(one.bytes for one in found) == of_network + twice + 4 * numbers


@pytest.mark.usefixtures("standard_promotion")
def test_with_fsdp_parameters_travel_and_not_the_clips(tiny_model, tiny_frozen, tiny_text, tiny_config):
    tiny_config.batch_size = 1024  # one token's numbers for all clips are more than the largest parameter
    found, state = step_collectives(mesh_of(1, 8), tiny_model, tiny_config, tiny_frozen, tiny_text)
    assert {one.kind for one in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
    largest = max(leaf.size for leaf in jax.tree.leaves((state.params, tiny_frozen)))
    assert largest < tiny_config.batch_size * tiny_model.dist.integration_width
    assert max(math.prod(shape) for one in found for _, shape in one.shapes) <= largest


def test_an_axis_of_minus_one_takes_the_devices_that_the_others_leave():
    assert dict(mesh_of(-1, 2, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(mesh_of(2, -1).shape) == {"data": 2, "fsdp": 4, "tensor": 1}


@pytest.mark.parametrize("shape", [(3, 1, 1), (-1, 3, 1), (16, 1, 1), (2, 2, 1)])
def test_a_mesh_that_does_not_fill_the_devices_is_refused(shape):
    with pytest.raises(UserError, match=rf"mesh.data={shape[0]}, mesh.fsdp={shape[1]}, .* do not fill 8 devices"):
        mesh_of(*shape)


def everything_that_is_placed():
    """Names and shapes of the parameters of both CLIP towers and of the training state."""
    clip = small_models.clip()
    frozen = clip.params
    params = small_models.model().dist_params
    optimizer = make_optimizer(settings.defaults().optimizer)
    step = jnp.zeros((), jnp.int32)
    state = {"params": params, "ema": params, "opt_state": jax.eval_shape(optimizer.init, params), "step": step}
    return frozen, state


def test_every_parameter_is_matched_and_every_row_of_the_table_matches_one(monkeypatch):
    frozen, state = everything_that_is_placed()
    mesh = mesh_of(2, 2, 2)
    used = set()
    for index in range(len(sharding.PARTITIONS)):
        rows = sharding.PARTITIONS[:index] + sharding.PARTITIONS[index + 1 :]
        monkeypatch.setattr(sharding, "PARTITIONS", rows)
        try:
            sharding.tree_shardings(mesh, (frozen, state))
        except ValueError:
            used.add(index)
        monkeypatch.undo()
    assert used == set(range(len(sharding.PARTITIONS)))


def test_a_parameter_that_no_row_matches_is_named():
    with pytest.raises(ValueError, match=r"new/kernal \(3, 4\) matches no pattern"):
        sharding.tree_shardings(mesh_of(8), {"new": {"kernal": np.zeros((3, 4))}})


def test_a_parameter_that_the_mesh_does_not_divide_is_named():
    kernel = {"vision": {"blocks": {"mlp": {"proj": {"kernel": np.zeros((2, 12, 4))}}}}}
    with pytest.raises(UserError, match=r"vision/blocks/mlp/proj/kernel .*: 12 is not divisible by mesh.tensor=4 x"):
        sharding.tree_shardings(mesh_of(1, 2, 4), kernel)
    spread = sharding.tree_shardings(mesh_of(4, 2, 1), kernel)["vision"]["blocks"]["mlp"]["proj"]["kernel"]
    assert spread.shard_shape((2, 12, 4)) == (2, 6, 4)


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_do():
    sharding.check_batch(mesh_of(4, 2), "batch_size", 16, parts=2)
    with pytest.raises(UserError, match=r"batch_size=20 is not divisible by 8 devices .* nearest that are: 16 and 24$"):
        sharding.check_batch(mesh_of(4, 2), "batch_size", 20)
    with pytest.raises(UserError, match=r"eval.batch_size=3 is .* nearest that are: 4$"):
        sharding.check_batch(mesh_of(4, 1, 2), "eval.batch_size", 3)
    with pytest.raises(UserError, match=r"x 3 parts \(grad_accum_steps\); the nearest that are: 24 and 48"):
        sharding.check_batch(mesh_of(8), "batch_size", 32, parts=3)


def test_one_host_holds_all_rows():
    for shape in ((8, 1, 1), (2, 2, 2), (1, 1, 8)):
        np.testing.assert_array_equal(sharding.local_rows(mesh_of(*shape), 16), np.arange(16))


def test_a_placed_array_is_spread_and_whole():
    mesh = mesh_of(2, 2, 2)
    array = np.arange(48.0, dtype=np.float32).reshape(2, 24, 1)
    where = sharding.leaf_sharding(mesh, "blocks/mlp/fc/kernel", (2, 24, 2))
    placed = sharding.place(np.concatenate([array, array], axis=2), where)
    assert placed.addressable_shards[0].data.shape == (2, 12, 1)
    np.testing.assert_array_equal(placed[:, :, :1], array)
