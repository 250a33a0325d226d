"""Memory of a training step, and the search for the largest batch size that fits."""

import pytest
from jax.errors import JaxRuntimeError

from dist_jax.training import memory
from dist_jax.training.memory import StepMemory, TooLarge


def search(limit: int, size, raises: bool = False) -> tuple[int, list[int]]:
    """The largest batch found in `limit` bytes if a clip takes one byte, and the batch sizes tried."""
    tried = []

    def memory_of(batch_size: int) -> StepMemory:
        tried.append(batch_size)
        if raises and batch_size > limit:
            raise TooLarge("too large")
        return StepMemory(arguments=batch_size, outputs=0, temporary=0)

    return memory.largest_batch(memory_of, size, limit), tried


@pytest.mark.parametrize("raises", [False, True], ids=["compiler counts", "compiler raises"])
@pytest.mark.parametrize("fitting", [1, 2, 3, 17, 100, 1000, 54321])
def test_the_largest_batch_is_found_to_within_a_sixteenth_in_few_tries(fitting, raises):
    found, tried = search(8 * fitting + 3, lambda number: 8 * number, raises)
    assert 0 <= fitting - found // 8 <= max(0, found // 8 // 16)
    assert found % 8 == 0
    assert len(tried) <= 2 * fitting.bit_length() + 1
    assert len(set(tried)) == len(tried)


def test_the_result_is_zero_if_nothing_fits():
    assert search(7, lambda number: 8 * number) == (0, [8])
    assert search(7, lambda number: 8 * number, raises=True) == (0, [8])


@pytest.mark.parametrize(
    ("num_devices", "grad_accum_steps", "group_size", "sizes"),
    [
        (1, 1, 1, [1, 2, 3]),
        (8, 1, 1, [8, 16, 24]),
        (4, 1, 32, [8, 16, 24, 32, 64, 96]),  # up to one group in steps of 8, then whole groups
        (8, 2, 32, [32, 64, 96]),
        (3, 1, 32, [6, 12, 18, 24, 30, 96, 192]),
        (64, 1, 32, [128, 256]),
        (4, 1, 10, [8, 40, 80]),
    ],
)
def test_a_batch_is_one_group_or_whole_groups(num_devices, grad_accum_steps, group_size, sizes):
    size = memory.batch_sizes(num_devices, grad_accum_steps, group_size)
    assert [size(number) for number in range(1, len(sizes) + 1)] == sizes


def test_an_out_of_memory_error_says_which_settings_to_change():
    with (
        pytest.raises(
            TooLarge, match=r"increase grad_accum_steps, set model.remat=layers, .*--find_batch.*XLA:TPU compile"
        ) as e,
        memory.raise_too_large(),
    ):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory\nin hbm")
    assert "\n" not in str(e.value)
    with pytest.raises(JaxRuntimeError, match="INTERNAL"), memory.raise_too_large():
        raise JaxRuntimeError("INTERNAL: another error")
