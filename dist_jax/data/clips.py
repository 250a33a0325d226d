"""From a record's number to a row of a batch: the order in which sampling and augmentation are applied.

A row holds `video` uint8 [T, H, W, 3] (training) or [V * crops, T, H, W, 3] (evaluation: V temporal views, the crops of
one view side by side), `label` int32 [], `mask` float32 [] (1), `record` int64 [] and `id` bytes [].
"""

import ml_collections
import tensorflow as tf

from dist_jax.data import sampling, transforms
from dist_jax.data.rand_augment import rand_augment
from dist_jax.data.sampling import Features
from dist_jax.data.source import Source


def train_clip(
    config: ml_collections.ConfigDict, source: Source, resolution: int, record: tf.Tensor, epoch: tf.Tensor
) -> Features:
    """The row of a training record (int64 []) as `epoch` (int64 []) draws it; H = W = `resolution`."""
    features = source.read(record) | {"seed": example_seed(config.seed, epoch, record)}
    features = choose_label(features, drawn=True)
    features = sampling.train_frames(features, config.data.sampling, config.model.num_frames, config.data.stride)
    features = transforms.random_resized_crop(features, config.augment.crop_scale, config.augment.crop_ratio)
    order, features = _distinct_frames(features)
    features = transforms.resize(source.decode(features), resolution, resolution)
    features["video"] = tf.gather(features["video"], order)  # [T, H, W, 3]
    features = transforms.random_flip(features, config.augment.hflip_prob, config.augment.hflip_label_pairs)
    if config.augment.rand_augment:
        features = rand_augment(features, *config.augment.rand_augment)
    if config.augment.erase_prob:
        features = transforms.random_erase(features, config.augment.erase_prob)
    return _row(features, record, [config.model.num_frames, resolution, resolution, 3])


def eval_clip(config: ml_collections.ConfigDict, source: Source, resolution: int, record: tf.Tensor) -> Features:
    """The row of a validation record (int64 []); V = eval.num_views."""
    frames, views, crops = config.model.num_frames, config.eval.num_views, config.eval.num_crops
    features = choose_label(source.read(record), drawn=False)
    features = sampling.eval_views(features, config.data.sampling, frames, config.data.stride, views)
    order, features = _distinct_frames(transforms.whole_frame(features))
    features = transforms.short_side_crops(source.decode(features), resolution, crops)  # [crops, distinct, H, W, 3]
    order = tf.reshape(order, [views, frames])
    video = tf.stack([tf.gather(crop, order) for crop in tf.unstack(features["video"])], axis=1)
    shape = [views * crops, frames, resolution, resolution, 3]
    return _row(features | {"video": tf.reshape(video, shape)}, record, shape)


def blank_clip(shape: list[int]) -> Features:
    """A row of the same form without a clip: mask 0, record -1."""
    return {
        "video": tf.zeros(shape, tf.uint8),
        "label": tf.constant(0),
        "mask": tf.constant(0.0),
        "record": tf.constant(-1, tf.int64),
        "id": tf.constant(b""),
    }


def example_seed(seed: int, epoch: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
    """What all draws of an example come from: int64 [2] out of (seed, epoch, record)."""
    base = tf.stack([tf.constant(seed, tf.int64), tf.cast(epoch, tf.int64)])
    return tf.random.experimental.stateless_fold_in(base, record)


def choose_label(features: Features, drawn: bool) -> Features:
    """Adds `label` (int32 []): of several, one drawn (training) or the first (evaluation); -1 where there is none."""
    labels = tf.concat([features["labels"], [-1]], 0)
    place = tf.constant(0)
    if drawn:
        count = tf.maximum(tf.size(features["labels"]), 1)
        seed = sampling.fold_in(features["seed"], "label")
        place = tf.random.stateless_uniform([], seed, 0, count, dtype=tf.int32)
    return features | {"label": tf.cast(labels[place], tf.int32)}


def _distinct_frames(features: Features) -> tuple[tf.Tensor, Features]:
    """Each frame once in `indices`, so that none is decoded twice; and where the wanted ones are among them."""
    distinct, order = tf.unique(tf.reshape(features["indices"], [-1]))
    return order, features | {"indices": distinct}


def _row(features: Features, record: tf.Tensor, shape: list[int]) -> Features:
    return {
        "video": tf.ensure_shape(features["video"], shape),
        "label": features["label"],
        "mask": tf.constant(1.0),
        "record": record,
        "id": features["id"],
    }
