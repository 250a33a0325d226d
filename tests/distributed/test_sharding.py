"""Mesh, shardings of parameters and batches, and the collectives of the compiled training step."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from helpers import pe_files, siglip_files, small_models
from helpers.small_models import random_batch

from dist_jax import config as settings
from dist_jax.cost import hlo
from dist_jax.cost.collectives import collectives
from dist_jax.distributed import sharding
from dist_jax.distributed.mesh import make_mesh
from dist_jax.errors import UserError
from dist_jax.models.networks import NETWORKS
from dist_jax.training.optimizer import lr_schedule, make_optimizer
from dist_jax.training.train_step import TrainStep
from dist_jax.weights import frozen as frozen_weights
from dist_jax.weights import table


def mesh_of(data: int, fsdp: int = 1, tensor: int = 1):
    config = settings.defaults()
    config.mesh.update(data=data, fsdp=fsdp, tensor=tensor)
    return make_mesh(config.mesh)


def step_collectives(mesh, model, config, frozen, text):
    """Collectives of the training step, compiled but not run, and the abstract training state."""
    train_step = TrainStep(
        dataclasses.replace(model, mesh=mesh),
        make_optimizer(config.optimizer),
        lr_schedule(config.optimizer, config.epochs, 1 / 8),
        ml_collections.FrozenConfigDict(config),
        sharding.replicated(mesh),
    )

    def abstract(tree, shardings):
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)

    state = jax.eval_shape(train_step.init, jax.random.key(0))
    shardings = sharding.tree_shardings(mesh, state)
    batch = random_batch(0, config.batch_size)
    arguments = (
        abstract(state, shardings),
        abstract(frozen, sharding.tree_shardings(mesh, frozen)),
        {"label": jax.ShapeDtypeStruct(text.shape, text.dtype, sharding=sharding.replicated(mesh))},
        abstract(batch, jax.tree.map(lambda _: sharding.batch_sharding(mesh), batch)),
    )
    step = jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh)))
    return collectives(hlo.parse(step.lower(*arguments).compile().as_text())), state


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_a_data_parallel_step_reduces_only_the_gradients_and_two_scalars(
    tiny_model, tiny_frozen, tiny_text, tiny_config
):
    tiny_config.augment.color_jitter = 0.2
    tiny_config.optimizer.grad_clip_norm = 1.0
    tiny_config.ema_decay = 0.9
    ops, state = step_collectives(mesh_of(8), tiny_model, tiny_config, tiny_frozen, tiny_text)
    assert {op.kind for op in ops} == {"all-reduce"}
    num_scalars = sum(op.shapes.count(("f32", ())) for op in ops)  # the loss and the accuracy
    assert num_scalars == 2
    gradient_bytes = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    dist = tiny_model.dist
    # The two feed-forward networks are added: their last biases have the same gradient, which is summed once.
    shared_bias_bytes = 4 * len(dist.layers) * dist.integration_width
    # The key bias of the spatial attention has no effect: its gradient is a constant 0.
    unused_bytes = 4 * dist.num_pooling_layers * dist.integration_width
    assert sum(op.bytes for op in ops) == gradient_bytes - shared_bias_bytes - unused_bytes + 4 * num_scalars


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_an_fsdp_step_moves_parameters_but_no_activations(tiny_model, tiny_frozen, tiny_text, tiny_config):
    tiny_config.batch_size = 4096  # one token of all clips is larger than the largest parameter
    ops, state = step_collectives(mesh_of(1, 8), tiny_model, tiny_config, tiny_frozen, tiny_text)
    assert {op.kind for op in ops} <= {"all-gather", "all-reduce", "reduce-scatter"}
    largest = max(leaf.size for leaf in jax.tree.leaves((state.params, tiny_frozen)))
    assert largest < tiny_config.batch_size * tiny_model.dist.integration_width
    assert max(math.prod(shape) for op in ops for _, shape in op.shapes) <= largest


def test_an_axis_of_minus_one_uses_all_remaining_devices():
    assert dict(mesh_of(-1, 2, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(mesh_of(2, -1).shape) == {"data": 2, "fsdp": 4, "tensor": 1}


@pytest.mark.parametrize("shape", [(3, 1, 1), (-1, 3, 1), (16, 1, 1), (2, 2, 1)])
def test_a_mesh_that_does_not_fill_the_devices_is_refused(shape):
    with pytest.raises(UserError, match=rf"mesh.data={shape[0]}, mesh.fsdp={shape[1]}, .* do not fill 8 devices"):
        mesh_of(*shape)


def all_placed_trees():
    """Parameters of CLIP (float and quantised), SigLIP and PE, and the training state (abstract optimizer state)."""
    frozen = small_models.clip_model().params
    shapes = {path: leaf.shape for path, leaf in table.flatten(frozen).items()}
    place = partial(frozen_weights.abstract, mesh_of(8), jnp.float32, "int8")
    quantized = table.unflatten({path: place(path, shape) for path, shape in shapes.items()})
    params = {network: small_models.network_params(small_models.video_model(network)) for network in NETWORKS}
    optimizer = make_optimizer(settings.defaults().optimizer)
    step = jnp.zeros((), jnp.int32)
    state = {"params": params, "ema": params, "opt_state": jax.eval_shape(optimizer.init, params), "step": step}
    return (frozen, quantized, siglip_files.siglip_model().params, pe_files.pe_model().params), state


def test_every_parameter_has_a_partition_and_every_pattern_is_used(monkeypatch):
    frozen, state = all_placed_trees()
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


def test_a_parameter_without_a_partition_is_named():
    with pytest.raises(ValueError, match=r"new/kernal \(3, 4\) matches no pattern"):
        sharding.tree_shardings(mesh_of(8), {"new": {"kernal": np.zeros((3, 4))}})


def test_a_parameter_that_the_mesh_does_not_divide_is_refused():
    kernel = {"vision": {"blocks": {"mlp": {"proj": {"kernel": np.zeros((2, 12, 4))}}}}}
    with pytest.raises(UserError, match=r"vision/blocks/mlp/proj/kernel .*: 12 is not divisible by mesh.tensor=4 x"):
        sharding.tree_shardings(mesh_of(1, 2, 4), kernel)
    sharded = sharding.tree_shardings(mesh_of(4, 2, 1), kernel)["vision"]["blocks"]["mlp"]["proj"]["kernel"]
    assert sharded.shard_shape((2, 12, 4)) == (2, 6, 4)


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_valid_sizes():
    sharding.check_batch(mesh_of(4, 2), "batch_size", 16, parts=2)
    with pytest.raises(UserError, match=r"batch_size=20 is not divisible by 8 devices .*; use 16 or 24$"):
        sharding.check_batch(mesh_of(4, 2), "batch_size", 20)
    with pytest.raises(UserError, match=r"eval.batch_size=3 is .*; use 4$"):
        sharding.check_batch(mesh_of(4, 1, 2), "eval.batch_size", 3)
    with pytest.raises(UserError, match=r"x 3 parts \(grad_accum_steps\); use 24 or 48"):
        sharding.check_batch(mesh_of(8), "batch_size", 32, parts=3)


def test_a_single_host_holds_all_rows():
    for shape in ((8, 1, 1), (2, 2, 2), (1, 1, 8)):
        np.testing.assert_array_equal(sharding.local_rows(mesh_of(*shape), 16), np.arange(16))


def test_a_placed_array_is_sharded_and_complete():
    mesh = mesh_of(2, 2, 2)
    array = np.arange(48.0, dtype=np.float32).reshape(2, 24, 1)
    fc_sharding = sharding.leaf_sharding(mesh, "blocks/mlp/fc/kernel", (2, 24, 2))
    placed = sharding.place(np.concatenate([array, array], axis=2), fc_sharding)
    assert placed.addressable_shards[0].data.shape == (2, 12, 1)
    np.testing.assert_array_equal(placed[:, :, :1], array)
