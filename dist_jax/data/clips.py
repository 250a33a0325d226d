"""One record -> one row of a batch: sampling, decoding and augmentation, in order.

A row has `video` uint8 [T, H, W, 3] (training) or [V * crops, T, H, W, 3] (evaluation; the crops of a view are
adjacent), `labels` ({label name: int32 [], or bool [K] with data.multi_label}), `label_range` ({label name: int64 [2]},
the smallest and largest class number before a flip), `mask` float32 [] (1), `record` int64 [] and `id` bytes [].
"""

from collections.abc import Mapping

import ml_collections
import tensorflow as tf

from dist_jax.data import sampling, transforms
from dist_jax.data.rand_augment import rand_augment
from dist_jax.data.sampling import Features
from dist_jax.data.source import Source, single_label


def train_clip(
    config: ml_collections.ConfigDict, source: Source, resolution: int, record: tf.Tensor, epoch: tf.Tensor
) -> Features:
    """The row of a training record (int64 []) in an epoch (int64 []); H = W = `resolution`."""
    features = source.read(record) | {"seed": example_seed(config.seed, epoch, record)}
    features = _labels_of_row(config, source, features, random=True)
    features = sampling.train_frames(features, config.data.sampling, config.model.num_frames, config.data.stride)
    features = transforms.random_resized_crop(features, config.augment.crop_scale, config.augment.crop_ratio)
    features = transforms.random_flip(features, config.augment.hflip_prob, flip_label_pairs(config))
    order, features = _unique_frames(features)
    features = transforms.resize(source.decode(features), order, resolution, resolution)  # [T, H, W, 3]
    if config.augment.rand_augment:
        features = rand_augment(features, *config.augment.rand_augment)
    if config.augment.erase_prob:
        features = transforms.random_erase(features, config.augment.erase_prob)
    return _row(features, record, [config.model.num_frames, resolution, resolution, 3])


def eval_clip(config: ml_collections.ConfigDict, source: Source, resolution: int, record: tf.Tensor) -> Features:
    """The row of a validation record (int64 []); V = eval.num_views, H = W = `resolution`."""
    num_frames, num_views, num_crops = config.model.num_frames, config.eval.num_views, config.eval.num_crops
    features = _labels_of_row(config, source, source.read(record), random=False)
    features = sampling.eval_views(features, config.data.sampling, num_frames, config.data.stride, num_views)
    order, features = _unique_frames(transforms.whole_frame(features))
    features = transforms.short_side_crops(source.decode(features), resolution, num_crops)  # [crops, unique, H, W, 3]
    order = tf.reshape(order, [num_views, num_frames])
    video = tf.stack([tf.gather(crop, order) for crop in tf.unstack(features["video"])], axis=1)
    shape = [num_views * num_crops, num_frames, resolution, resolution, 3]
    return _row(features | {"video": tf.reshape(video, shape)}, record, shape)


def blank_clip(shape: list[int], num_classes: Mapping[str, int], multi_label: bool) -> Features:
    """A row of the same structure without a clip: mask 0, record -1, class 0 or no classes."""
    return {
        "video": tf.zeros(shape, tf.uint8),
        "labels": {n: tf.zeros([k], tf.bool) if multi_label else tf.constant(0) for n, k in num_classes.items()},
        "label_range": {name: tf.zeros([2], tf.int64) for name in num_classes},
        "mask": tf.constant(0.0),
        "record": tf.constant(-1, tf.int64),
        "id": tf.constant(b""),
    }


def example_seed(seed: int, epoch: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
    """The seed of all random draws of an example: int64 [2], a function of (seed, epoch, record)."""
    base = tf.stack([tf.constant(seed, tf.int64), tf.cast(epoch, tf.int64)])
    return tf.random.experimental.stateless_fold_in(base, record)


def flip_label_pairs(config: ml_collections.ConfigDict) -> dict[str, tuple[int, ...]]:
    """Class numbers a, b, a, b, ... that a flip swaps, by label name. Raises UserError if they are of two labels."""
    pairs = tuple(config.augment.hflip_label_pairs)
    return {single_label(config.data, f"augment.hflip_label_pairs={pairs}"): pairs} if pairs else {}


def select_labels(features: Features, random: bool) -> Features:
    """Reduces each of `labels` to one class, int32 []: a random one (training) or the first; -1 if there is none.

    Adds `label_range`, int64 [2] for each label: the class number, twice.
    """

    def select(name: str, classes: tf.Tensor) -> tf.Tensor:
        position = tf.constant(0)
        if random:
            seed = sampling.fold_in(features["seed"], name)
            position = tf.random.stateless_uniform([], seed, 0, tf.maximum(tf.size(classes), 1), dtype=tf.int32)
        return tf.concat([classes, [-1]], 0)[position]

    selected = {name: select(name, classes) for name, classes in features["labels"].items()}
    labels = {name: tf.cast(label, tf.int32) for name, label in selected.items()}
    return features | {"labels": labels, "label_range": {name: tf.stack([x, x]) for name, x in selected.items()}}


def multi_hot_labels(features: Features, num_classes: Mapping[str, int]) -> Features:
    """Replaces the class numbers of each of `labels` by bool [K], True for each class of the record; there may be none.

    Adds `label_range`, int64 [2] for each label: the smallest and largest class number, or 0 and 0 if there is none.
    """
    classes = features["labels"]
    ranges = {
        name: tf.cond(
            tf.size(numbers) > 0,
            lambda numbers=numbers: tf.stack([tf.reduce_min(numbers), tf.reduce_max(numbers)]),
            lambda: tf.zeros([2], tf.int64),
        )
        for name, numbers in classes.items()
    }
    labels = {
        name: tf.reduce_any(numbers[:, None] == tf.range(num_classes[name], dtype=tf.int64), axis=0)
        for name, numbers in classes.items()
    }
    return features | {"labels": labels, "label_range": ranges}


def _labels_of_row(config: ml_collections.ConfigDict, source: Source, features: Features, random: bool) -> Features:
    if config.data.multi_label:
        return multi_hot_labels(features, source.num_classes)
    return select_labels(features, random)


def _unique_frames(features: Features) -> tuple[tf.Tensor, Features]:
    """Makes `indices` unique, so that no frame is decoded twice. Returns also each original index's position in it."""
    unique, order = tf.unique(tf.reshape(features["indices"], [-1]))
    return order, features | {"indices": unique}


def _row(features: Features, record: tf.Tensor, shape: list[int]) -> Features:
    return {
        "video": tf.ensure_shape(features["video"], shape),
        "labels": features["labels"],
        "label_range": features["label_range"],
        "mask": tf.constant(1.0),
        "record": record,
        "id": features["id"],
    }
