"""The memory of batches is used again only when nothing refers to it."""

import jax
import numpy as np
import pytest

from dist_jax.data.batch_memory import BatchMemory


@pytest.fixture
def memory():
    return BatchMemory((64, 64))


def test_an_array_is_handed_out_again_after_its_last_reference(memory):
    first = memory.take()
    address = first.ctypes.data
    assert memory.take().ctypes.data != address
    del first
    assert address in {memory.take().ctypes.data for _ in range(3)}
    assert (memory.take().shape, memory.take().dtype) == ((64, 64), np.uint8)


@pytest.mark.parametrize(
    "alias",
    [
        lambda x: x[3:4],
        np.ravel,
        memoryview,
        lambda x: np.frombuffer(x, np.uint8),
        lambda x: {"video": x},
    ],
)
def test_an_array_with_a_view_is_not_handed_out(memory, alias):
    array = memory.take()
    array[:] = 7
    view = alias(array)
    del array
    for _ in range(3):
        memory.take()[:] = 0
    values = view["video"] if isinstance(view, dict) else np.asarray(view)
    np.testing.assert_array_equal(values, 7)


def test_memory_that_a_jax_array_shares_is_not_handed_out(memory):
    arrays = [memory.take() for _ in range(100)]
    array = next(array for array in arrays if array.ctypes.data % 64 == 0)  # JAX copies others on a CPU
    array[:] = 7
    del arrays
    shared = jax.device_put(array)
    assert shared.unsafe_buffer_pointer() == array.ctypes.data
    del array
    taken = [memory.take() for _ in range(101)]
    for other in taken:
        other[:] = 0
    np.testing.assert_array_equal(shared, 7)
