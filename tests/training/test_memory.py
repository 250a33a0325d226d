"""The largest batch that fits, found with as few tries as may be."""

import pytest
from jax.errors import JaxRuntimeError

from dist_jax.training import memory
from dist_jax.training.memory import StepMemory, TooLarge


def search(largest: int, size, refuses: bool = False) -> tuple[int, list[int]]:
    """What is found if so many clips fit, one byte each, and the sizes that were tried."""
    tried = []

    def memory_of(batch_size: int) -> StepMemory:
        tried.append(batch_size)
        if refuses and batch_size > largest:
            raise TooLarge("too large")
        return StepMemory(arguments=batch_size, outputs=0, temporary=0)

    return memory.largest_batch(memory_of, size, largest), tried


@pytest.mark.parametrize("refuses", [False, True], ids=["counted", "refused by the compiler"])
@pytest.mark.parametrize("fitting", [1, 2, 3, 17, 100, 1000, 54321])
def test_nearly_the_largest_batch_is_found_in_few_tries(fitting, refuses):
    found, tried = search(8 * fitting + 3, lambda number: 8 * number, refuses)
    assert 0 <= fitting - found // 8 <= max(0, found // 8 // 16)
    assert found % 8 == 0
    assert len(tried) <= 2 * fitting.bit_length() + 1
    assert len(set(tried)) == len(tried)


def test_where_nothing_fits_it_is_zero():
    assert search(7, lambda number: 8 * number) == (0, [8])
    assert search(7, lambda number: 8 * number, refuses=True) == (0, [8])


@pytest.mark.parametrize(
    ("devices", "grad_accum_steps", "group", "sizes"),
    [
        (1, 1, 1, [1, 2, 3]),
        (8, 1, 1, [8, 16, 24]),
        (4, 1, 32, [8, 16, 24, 32, 64, 96]),  # up to a group any pairs, then whole groups
        (8, 2, 32, [32, 64, 96]),
        (3, 1, 32, [6, 12, 18, 24, 30, 96, 192]),
        (64, 1, 32, [128, 256]),
        (4, 1, 10, [8, 40, 80]),
    ],
)
def test_batches_are_one_group_or_whole_groups(devices, grad_accum_steps, group, sizes):
    size = memory.batch_sizes(devices, grad_accum_steps, group)
    assert [size(number) for number in range(1, len(sizes) + 1)] == sizes


def test_what_xla_says_where_memory_ends_is_told_with_what_to_do():
    with (
        pytest.raises(
            TooLarge, match=r"raise grad_accum_steps, set model.remat=layers, .*--find_batch.*XLA:TPU compile"
        ) as e,
        memory.raise_too_large(),
    ):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory\nin hbm")
    assert "\n" not in str(e.value)
    with pytest.raises(JaxRuntimeError, match="INTERNAL"), memory.raise_too_large():
        raise JaxRuntimeError("INTERNAL: another error")
