"""The random draws of a clip depend only on (seed, epoch, record) and the name of the draw."""

import zlib
from typing import NamedTuple

import numpy as np

_RECORD_BITS = 40


class ClipSeed(NamedTuple):
    """Seed of all random draws of a training clip."""

    seed: int  # config.seed
    epoch: int
    record: int

    def generator(self, name: str) -> np.random.Generator:
        """The generator of one draw. Draws of different names are independent; all frames of a clip share a draw."""
        key = np.array([self.seed % 2**64, self.epoch << _RECORD_BITS | self.record], np.uint64)
        # Philox is a counter-based generator: its first number costs microseconds. Names have distinct counters.
        counter = np.array([0, 0, 0, zlib.crc32(name.encode())], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))
