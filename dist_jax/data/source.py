"""The interface that every input source implements: n clips, addressed by number."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from dist_jax.data.sampling import Features


@dataclasses.dataclass(frozen=True)
class Source:
    """n clips, each addressed by its number.

    Attributes:
        size: n.
        classes: K, the number of class names.
        read: record number (int64 []) -> features `num_frames`, `height`, `width` (int32 []), `labels` (int64 [any]),
            `id` (bytes [], the clip's name) and whatever `decode` needs; frames stay encoded. Whatever it or `decode`
            raises makes the record a bad one.
        decode: adds `video`, uint8 [m, h, w, 3]: the frames `indices` (int32 [m]), cut to `window` (int32 [4]).
        where: record number -> how a message names the record.
        identity: tells these clips, as they are, from any others.
    """

    size: int
    classes: int
    read: Callable[[tf.Tensor], Features]
    decode: Callable[[Features], Features]
    where: Callable[[int], str]
    identity: str
