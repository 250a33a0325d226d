"""The interface of an input source: n clips, addressed by number. Names of the labels that a run reads."""

import dataclasses
from collections.abc import Callable, Mapping

import ml_collections
import numpy as np

from dist_jax.errors import UserError
from dist_jax.video.resize import Frames


@dataclasses.dataclass(frozen=True)
class StoredClip:
    """A clip of a source. Its frames are decoded when `frames` is called, or later.

    Attributes:
        num_frames: number of stored frames, at least 1.
        height: of the frames, pixels.
        width: of the frames, pixels.
        labels: class numbers by label name, int64, any number.
        id: the clip's name.
        frames: indices (int [m]), window (int [4]: top, left, height h, width w) -> the m frames, uint8 [h, w, 3]. The
            caller must finish with a frame before it takes the next one.
    """

    num_frames: int
    height: int
    width: int
    labels: Mapping[str, np.ndarray]
    id: bytes
    frames: Callable[[np.ndarray, np.ndarray], Frames]


@dataclasses.dataclass(frozen=True)
class Source:
    """n clips, addressed by record numbers 0 to n - 1. Several threads read at the same time.

    An error in `read`, or in decoding the frames, makes the record a bad record; see `bad_records.py`.

    Attributes:
        size: n.
        num_classes: K of each label, by label name.
        read: record number -> clip.
        location: record number -> the record's file and position, for messages.
        identity: a string that changes when the clips change.
        seconds: record number -> length of the clip in seconds; None: unknown. Reads little.
        labels: record number -> class numbers by label name, int64, any number, as in the clip; None: unknown without
            reading the clip. Reads little, and no frames.
    """

    size: int
    num_classes: Mapping[str, int]
    read: Callable[[int], StoredClip]
    location: Callable[[int], str]
    identity: str
    seconds: Callable[[int], float | None] = lambda record: None
    labels: Callable[[int], Mapping[str, np.ndarray] | None] = lambda record: None


def label_names(data: ml_collections.ConfigDict) -> list[str]:
    """Names of the labels in data.label_key, in order: ["label"] or ["verb", "noun"]. `data` is config.data."""
    return data.label_key.split(",")


def single_label(data: ml_collections.ConfigDict, user: str) -> str:
    """The name of the only label. Raises UserError if there are several; `user` is the setting that needs one."""
    if len(label_names(data)) > 1:
        raise UserError(f"data.label_key={data.label_key}: {user} needs a single label; set data.label_key to one")
    return data.label_key


def label_error(source: Source, record: int, name: str, number: int, hint: str = "") -> UserError:
    """The error for a record whose class number is not 0 to K - 1; -1: the record has no label, and `hint` is added."""
    problem = f"has no label {name!r} (data.label_key)" if number == -1 else f"has {name} {number}"
    return UserError(
        f"{source.location(record)} {problem}, but the class numbers are 0 to {source.num_classes[name] - 1}: set "
        f"data.class_names_file to the class names of these records{hint if number == -1 else ''}"
    )
