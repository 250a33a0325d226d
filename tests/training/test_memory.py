"""Memory of a training step, and the search for the largest batch size that fits."""

import pytest
from jax.errors import JaxRuntimeError

from dist_jax.training import memory
from dist_jax.training.memory import StepMemory, TooLarge


def search(limit: int, size, raises: bool = False) -> tuple[int, list[int]]:
    """Calls `largest_batch` where each clip needs one byte. Returns its result and the batch sizes that it tried."""
    tried_sizes = []

    def memory_of(batch_size: int) -> StepMemory:
        tried_sizes.append(batch_size)
        if raises and batch_size > limit:
            raise TooLarge("too large")
        return StepMemory(arguments=batch_size, outputs=0, temporary=0)

    return memory.largest_batch(memory_of, size, limit), tried_sizes


@pytest.mark.parametrize("raises", [False, True], ids=["memory above the limit", "compiler error"])
@pytest.mark.parametrize("num_fitting", [1, 2, 3, 17, 100, 1000, 54321])
def test_the_result_is_within_a_sixteenth_of_the_largest_batch_after_few_compilations(num_fitting, raises):
    batch_size, tried_sizes = search(8 * num_fitting + 3, lambda number: 8 * number, raises)
    assert 0 <= num_fitting - batch_size // 8 <= batch_size // 8 // 16
    assert batch_size % 8 == 0
    assert len(tried_sizes) <= 2 * num_fitting.bit_length() + 1
    assert len(set(tried_sizes)) == len(tried_sizes)


def test_the_result_is_zero_if_no_batch_fits():
    assert search(7, lambda number: 8 * number) == (0, [8])
    assert search(7, lambda number: 8 * number, raises=True) == (0, [8])


@pytest.mark.parametrize(
    ("num_devices", "grad_accum_steps", "group_size", "expected"),
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
def test_a_batch_is_one_group_or_several_whole_groups(num_devices, grad_accum_steps, group_size, expected):
    size = memory.batch_sizes(num_devices, grad_accum_steps, group_size)
    assert [size(number) for number in range(1, len(expected) + 1)] == expected


def test_an_out_of_memory_error_names_the_settings_to_change():
    message = r"increase grad_accum_steps, set model.remat=layers, .*--find_batch.*XLA:TPU compile"
    with pytest.raises(TooLarge, match=message) as error, memory.raise_too_large():
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory\nin hbm")
    assert "\n" not in str(error.value)
    advice = pytest.raises(TooLarge, match=r"the evaluation .* reduce eval\.batch_size")
    with advice as error, memory.raise_too_large(), memory.raise_too_large(memory.EVALUATION_TOO_LARGE):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 GiB")
    assert "training step" not in str(error.value)
    with pytest.raises(JaxRuntimeError, match="INTERNAL"), memory.raise_too_large():
        raise JaxRuntimeError("INTERNAL: another error")
