"""The interface of an input source: n clips, addressed by number."""

import dataclasses
from collections.abc import Callable, Mapping

import tensorflow as tf

from dist_jax.data.sampling import Features


@dataclasses.dataclass(frozen=True)
class Source:
    """n clips, addressed by record numbers 0 to n - 1.

    An error in `read` or `decode` makes the record a bad record; see `bad_records.py`.

    Attributes:
        size: n.
        num_classes: K of each label, by label name.
        read: record number (int64 []) -> features: `num_frames`, `height`, `width` (int32 []), `labels` ({label
            name: int64, any number}), `id` (bytes [], the clip's name), and any others that `decode` needs. Frames stay
            encoded.
        decode: adds `video`, uint8 [m, h, >= w, 3], and `left`, int32 []: the frames `indices` (int32 [m]), cropped to
            `window` (int32 [4]: top, left, height h, width w). `video` may have more columns than the window; the
            window starts at column `left`.
        location: record number -> the record's file and position, for messages.
        identity: a string that changes when the clips change.
    """

    size: int
    num_classes: Mapping[str, int]
    read: Callable[[tf.Tensor], Features]
    decode: Callable[[Features], Features]
    location: Callable[[int], str]
    identity: str
