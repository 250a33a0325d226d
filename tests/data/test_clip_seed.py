"""The random numbers of a clip depend only on the seed, the epoch, the record and the name of the draw."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dist_jax.data.clip_seed import ClipSeed

SEEDS = st.builds(ClipSeed, st.integers(-(2**63), 2**63), st.integers(0, 2**20), st.integers(0, 2**40 - 1))


@given(SEEDS, st.text(max_size=5))
def test_the_same_seed_and_name_give_the_same_numbers(seed, name):
    np.testing.assert_array_equal(seed.generator(name).random(4), seed.generator(name).random(4))


@given(SEEDS, SEEDS)
def test_another_seed_or_name_gives_other_numbers(seed, other):
    numbers = {tuple(s.generator(name).random(4)) for s in (seed, other) for name in ("crop", "flip")}
    assert len(numbers) == 2 * len({seed, other})


def test_the_numbers_of_neighbouring_records_are_uniform_and_uncorrelated():
    draws = np.array([ClipSeed(0, 1, record).generator("crop").random(2) for record in range(2000)])
    assert np.all(np.abs(draws.mean(0) - 0.5) < 4 / np.sqrt(12 * 2000))
    neighbours = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(2000)
