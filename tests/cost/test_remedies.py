"""The search for settings that make a training step fit."""

import pytest

from dist_jax import config
from dist_jax.cost.remedies import first_that_fits
from dist_jax.errors import UserError
from dist_jax.training.memory import StepMemory, TooLarge

LIMIT = 100


def search(temporary, num_devices: int = 8, **changes):
    """`first_that_fits` where `temporary` gives the temporary bytes of a configuration. Also returns what it tried."""
    settings, tried = config.defaults(), []
    settings.update_from_flattened_dict(changes)

    def memory_of(changed) -> StepMemory:
        tried.append((changed.model.remat, changed.grad_accum_steps, changed.mesh.fsdp))
        return StepMemory(arguments=10, outputs=0, temporary=temporary(changed))

    return first_that_fits(settings, memory_of, LIMIT, num_devices), tried


def test_rematerialisation_is_tried_first():
    found, tried = search(lambda changed: 80)
    assert found == ("--config.model.remat=layers", StepMemory(10, 0, 80))
    assert tried == [("layers", 1, 1)]


def test_accumulation_follows_with_rematerialisation():
    (flags, memory), tried = search(lambda changed: 320 // changed.grad_accum_steps)
    assert flags == "--config.model.remat=layers --config.grad_accum_steps=4"
    assert memory.total == 90
    assert tried == [("layers", 1, 1), ("layers", 2, 1), ("layers", 4, 1)]


def test_a_setting_that_is_already_on_is_not_repeated():
    (flags, _), tried = search(lambda changed: 160 // changed.grad_accum_steps, **{"model.remat": "layers"})
    assert flags == "--config.grad_accum_steps=2"
    assert tried == [("layers", 2, 1)]


def test_fsdp_is_tried_last_and_only_where_it_divides_the_devices():
    (flags, _), tried = search(lambda changed: 160 // changed.mesh.fsdp, num_devices=6)
    assert flags == "--config.model.remat=layers --config.mesh.data=-1 --config.mesh.fsdp=2"
    assert tried[-1] == ("layers", 1, 2)
    found, tried = search(lambda changed: 1000 // changed.mesh.fsdp, num_devices=6)
    assert found is None
    assert {fsdp for _, _, fsdp in tried} == {1, 2}


@pytest.mark.parametrize("error", [TooLarge("too large"), UserError("batch_size is not divisible")])
def test_a_combination_that_does_not_compile_is_skipped(error):
    def temporary(changed):
        if changed.grad_accum_steps < 4:
            raise error
        return 50

    (flags, _), _ = search(temporary)
    assert flags.endswith("--config.grad_accum_steps=4")
