"""One stored clip -> one row of a batch: sampling, decoding and augmentation, in order.

The functions write the pixels into `video`, a row of the batch's memory: uint8 [T, H, W, 3] in training, [V * crops, T,
H, W, 3] in evaluation, where the crops of a view are adjacent. They return the other entries of the row: `labels`
({label name: int32 [], or bool [K] with data.multi_label}), `label_range` ({label name: int64 [2]}, the smallest and
largest class number before a flip), `mask` float32 [] (1), `record` int64 [] and `id` bytes.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from dist_jax.data import sampling, transforms
from dist_jax.data.clip_seed import ClipSeed
from dist_jax.data.rand_augment import rand_augment
from dist_jax.data.source import StoredClip, single_label
from dist_jax.errors import UserError
from dist_jax.video.eval_views import short_side_crops, temporal_views
from dist_jax.video.resize import resize_bilinear

Row = dict[str, Any]


def train_clip(
    config: ml_collections.ConfigDict,
    num_classes: Mapping[str, int],
    clip: StoredClip,
    seed: ClipSeed,
    video: np.ndarray,
) -> Row:
    """The row of a training record."""
    augment = config.augment
    labels, label_range = _labels_of_row(config, num_classes, clip, seed)
    num_frames, resolution = video.shape[:2]
    indices = sampling.train_frames(
        clip.num_frames, config.data.sampling, num_frames, config.data.stride, seed.generator("frames")
    )
    window = transforms.random_resized_crop(
        clip.height, clip.width, augment.crop_scale, augment.crop_ratio, seed.generator("crop")
    )
    if flip := seed.generator("flip").random() < augment.hflip_prob:
        pairs = flip_label_pairs(config)
        labels |= {name: transforms.swap_labels(labels[name], pairs[name]) for name in pairs}
    resize_bilinear(clip.frames(indices, window), resolution, resolution, flip, out=video)
    if augment.rand_augment:
        num_ops, magnitude = augment.rand_augment
        video[:] = rand_augment(video, num_ops, magnitude, seed.generator("rand_augment"))
    if augment.erase_prob:
        transforms.random_erase(video, augment.erase_prob, seed.generator("erase"))
    return _row(clip, seed.record, labels, label_range)


def eval_clip(
    config: ml_collections.ConfigDict,
    num_classes: Mapping[str, int],
    clip: StoredClip,
    record: int,
    video: np.ndarray,
) -> Row:
    """The row of a validation record."""
    num_views, num_crops = config.eval.num_views, config.eval.num_crops
    labels, label_range = _labels_of_row(config, num_classes, clip, None)
    indices = temporal_views(
        clip.num_frames, config.data.sampling, config.model.num_frames, config.data.stride, num_views
    )
    unique, order = np.unique(indices, return_inverse=True)  # no frame is decoded twice
    window = np.array([0, 0, clip.height, clip.width])
    crops = short_side_crops(clip.frames(unique, window), video.shape[2], num_crops)  # [crops, unique, H, W, 3]
    by_view = video.reshape(num_views, num_crops, *video.shape[1:])
    for number, crop in enumerate(crops):
        by_view[:, number] = crop[order.reshape(indices.shape)]
    return _row(clip, record, labels, label_range)


def blank_row(config: ml_collections.ConfigDict, num_classes: Mapping[str, int], video: np.ndarray) -> Row:
    """A row without a clip: black pixels, mask 0, record -1, class 0 or no classes."""
    video[:] = 0
    multi_label = config.data.multi_label
    return {
        "labels": {name: np.zeros(k, bool) if multi_label else np.int32(0) for name, k in num_classes.items()},
        "label_range": {name: np.zeros(2, np.int64) for name in num_classes},
        "mask": np.float32(0),
        "record": np.int64(-1),
        "id": b"",
    }


def flip_label_pairs(config: ml_collections.ConfigDict) -> dict[str, tuple[int, ...]]:
    """Class numbers a, b, a, b, ... that a flip swaps, by label name. Raises UserError if they are of two labels."""
    pairs = tuple(config.augment.hflip_label_pairs)
    return {single_label(config.data, f"augment.hflip_label_pairs={pairs}"): pairs} if pairs else {}


def select_label(classes: np.ndarray, rng: np.random.Generator | None) -> int:
    """One of the class numbers (int64 [any number]): a random one, or the first without `rng`; -1 if there is none."""
    if not len(classes):
        return -1
    return int(classes[int(rng.random() * len(classes)) if rng else 0])


def multi_hot(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """bool [K]: True for each of the class numbers (int64 [any number]). Numbers outside the classes are left out."""
    return np.isin(np.arange(num_classes), classes)


def _labels_of_row(
    config: ml_collections.ConfigDict, num_classes: Mapping[str, int], clip: StoredClip, seed: ClipSeed | None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """`labels` and `label_range` of a row, before a flip. With several labels and a seed, a random one is chosen."""
    if clip.labels.keys() != num_classes.keys():
        raise UserError(f"the clip has the labels {sorted(clip.labels)}, expected {sorted(num_classes)}")
    labels, ranges = {}, {}
    for name, classes in clip.labels.items():
        if config.data.multi_label:
            labels[name] = multi_hot(classes, num_classes[name])
            ranges[name] = np.array([classes.min(), classes.max()] if len(classes) else [0, 0], np.int64)
        else:
            label = select_label(classes, seed.generator(name) if seed and len(classes) > 1 else None)
            labels[name], ranges[name] = np.array(label).astype(np.int32), np.array([label, label])
    return labels, ranges


def _row(clip: StoredClip, record: int, labels: dict, label_range: dict) -> Row:
    values = {"mask": np.float32(1), "record": np.int64(record), "id": clip.id}
    return {"labels": labels, "label_range": label_range} | values
