"""DMVR (github.com/google-deepmind/dmvr) factories as a source (data.source=dmvr), and `ClipFactory` for DMVR users.

`open_source` uses the shards and the parser of any factory, but not its sampling and augmentation. Those follow the
configuration, so that order and randomness depend only on (seed, epoch, record). `ClipFactory` is a DMVR factory with
the sampling, crops and flips of dist_jax. Both import the dmvr package at first use.
"""

import functools
import importlib
import inspect
import json
from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np
import tensorflow as tf

from dist_jax import config as settings
from dist_jax.data import clips, record_index, records
from dist_jax.data.clip_seed import ClipSeed
from dist_jax.data.encoded_clips import encoded_clip, parsed_source
from dist_jax.data.source import Source
from dist_jax.errors import UserError


def __getattr__(name: str) -> type:
    # ClipFactory is created at its first use, because its base class needs dmvr.
    if name == "ClipFactory":
        return _clip_factory()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _clip_factory() -> type:
    builders, sources, video_dataset = (_dmvr(name) for name in ("builders", "sources", "video_dataset"))

    class ClipFactory(video_dataset.BaseVideoDatasetFactory):
        """Preprocessed clips: `image` uint8 [T, H, W, 3], `label` int32 [].

        With is_training=False, `image` is [V * crops, T, H, W, 3]; the crops of a view are adjacent.
        """

        def __init__(self, shards: str | Sequence[str]) -> None:
            """`shards` is a pattern of `records.find_shards`, or a list of paths."""
            paths = records.find_shards(shards) if isinstance(shards, str) else list(shards)
            super().__init__(paths, builders.SequenceExampleParserBuilder, sources.TFRecordsSource())

        def _build(
            self,
            is_training: bool = True,
            num_frames: int = 16,
            resolution: int = 224,
            sampling: str = "segments",
            stride: int = 4,
            num_views: int = 3,
            num_crops: int = 1,
            crop_scale: Sequence[float] = (0.4, 1.0),
            crop_ratio: Sequence[float] = (0.75, 4 / 3),
            hflip_prob: float = 0.5,
            hflip_label_pairs: Sequence[int] = (),
            label_feature: str = records.LABEL,
        ) -> None:
            """Arguments as in config.model, config.data, config.augment and config.eval.

            `label_feature` is the context feature with the labels.
            """
            if sampling not in ("segments", "dense"):
                raise UserError(f"sampling={sampling!r}: must be 'segments' or 'dense'")
            image = builders.IMAGE_FEATURE_NAME
            label = builders.LABEL_INDEX_FEATURE_NAME
            frames_spec = tf.io.FixedLenSequenceFeature((), dtype=tf.string)
            self.parser_builder.parse_feature(records.FRAMES, frames_spec, image)
            self.parser_builder.parse_feature(label_feature, tf.io.VarLenFeature(tf.int64), label, is_context=True)

            config = settings.defaults()
            config.data.update(sampling=sampling, stride=stride)
            config.model.num_frames = num_frames
            config.augment.update(
                crop_scale=crop_scale, crop_ratio=crop_ratio, hflip_prob=hflip_prob, hflip_label_pairs=hflip_label_pairs
            )
            config.eval.update(num_views=num_views, num_crops=num_crops)
            clips_shape = [num_frames] if is_training else [num_views * num_crops, num_frames]
            shape = [*clips_shape, resolution, resolution, 3]

            def make_clip(encoded: np.ndarray, labels: np.ndarray, seed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                clip = encoded_clip(len(encoded), encoded.__getitem__, {"label": labels}, b"", 0)
                video = np.empty(shape, np.uint8)
                if is_training:
                    row = clips.train_clip(config, {"label": 0}, clip, ClipSeed(int(seed), 0, 0), video)
                else:
                    row = clips.eval_clip(config, {"label": 0}, clip, 0, video)
                return video, row["labels"]["label"]

            def decode(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
                labels = tf.sparse.to_dense(features[label])
                has_label = tf.debugging.assert_positive(tf.size(labels), f"the record has no label {label_feature}")
                # DMVR pipelines use TensorFlow's global generator; tf.random.set_seed makes them reproducible.
                seed = tf.random.uniform([], maxval=tf.int64.max, dtype=tf.int64)
                with tf.control_dependencies([has_label]):
                    video, number = tf.numpy_function(make_clip, [features[image], labels, seed], [tf.uint8, tf.int32])
                return {image: tf.ensure_shape(video, shape), label: tf.ensure_shape(number, [])}

            self.decoder_builder.add_fn(decode, fn_name="dist_jax_clip")

    return ClipFactory


def open_source(data: ml_collections.ConfigDict, split: str, class_names: Mapping[str, Sequence[str]]) -> Source:
    """Opens the records of the factory data.dmvr_factory.

    Args:
        data: config.data. The arguments of the factory's constructor and of its `configure` method are in the JSON
          object data.dmvr_options and, for one split, in the JSON object data.train or data.val.
        split: "train" or "val".
        class_names: K names of each label, by label name.

    Raises:
        UserError: dmvr is not installed, an unknown factory, unknown arguments, shards that are not uncompressed
          TFRecords, filters, or a parser without frames or without the labels data.label_key.
    """
    builders, sources = _dmvr("builders"), _dmvr("sources")
    factory = _configured(data, split)
    if type(factory._source) is not sources.TFRecordsSource or factory._source._compression_type:
        raise UserError(f"{data.dmvr_factory} does not read uncompressed TFRecords; dist_jax supports no others")
    if any(factory.filter_builder._filter_fns.values()):
        raise UserError(
            f"{data.dmvr_factory} filters its records, which is not supported; write the selected records to new shards"
        )
    parse_all = factory.parser_builder.build()
    parsed = tf.function(parse_all).get_concrete_function(tf.TensorSpec([], tf.string)).structured_outputs
    keys = {name: builders.LABEL_INDEX_FEATURE_NAME if name == "label" else name for name in class_names}
    missing = {builders.IMAGE_FEATURE_NAME, *keys.values()} - parsed.keys()
    if missing:
        raise UserError(f"{data.dmvr_factory} parses {sorted(parsed)}; {sorted(missing)} is missing (data.label_key)")

    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        features = parse_all(serialized)
        labels = {name: _class_numbers(features[key]) for name, key in keys.items()}
        return features[builders.IMAGE_FEATURE_NAME], labels

    num_classes = {name: len(names) for name, names in class_names.items()}
    return parsed_source(record_index.load_index_of(factory._shards), parse, num_classes)


def _class_numbers(labels: tf.Tensor | tf.SparseTensor) -> tf.Tensor:
    """Parsed labels of a record, dense or sparse -> int64 [any number]."""
    values = labels.values if isinstance(labels, tf.SparseTensor) else tf.reshape(labels, [-1])
    return tf.cast(values, tf.int64)


def class_names(data: ml_collections.ConfigDict) -> dict[str, list[str]]:
    """Raises UserError, because DMVR factories have no class names."""
    raise UserError(
        f"data.class_names_file is empty; data.source={data.source} needs a file of class names, one per line"
    )


def _configured(data: ml_collections.ConfigDict, split: str) -> object:
    module, _, name = data.dmvr_factory.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"data.dmvr_factory={data.dmvr_factory!r}: must be module:ClassName ({error})") from error
    arguments = _json_object("data.dmvr_options", data.dmvr_options or "{}")
    arguments |= _json_object(f"data.{split}", data[split])
    init_parameters = inspect.signature(factory.__init__).parameters
    build_parameters = inspect.signature(factory._build).parameters
    unknown = sorted(arguments.keys() - init_parameters.keys() - build_parameters.keys())
    if unknown:
        allowed = [*init_parameters, *build_parameters]
        raise UserError(f"{data.dmvr_factory} has no arguments {unknown}; use {allowed}")
    try:
        instance = factory(**{key: value for key, value in arguments.items() if key in init_parameters})
        return instance.configure(**{key: value for key, value in arguments.items() if key not in init_parameters})
    except (TypeError, ValueError) as error:  # e.g. a missing argument
        raise UserError(
            f"{data.dmvr_factory} fails with {arguments} (data.dmvr_options and data.{split}): {error}"
        ) from error


def _json_object(field: str, text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{field}={text!r} is not JSON ({error}); with data.source=dmvr it must be a JSON object"
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{field}={text!r}: must be a JSON object with the factory's arguments")
    return value


def _dmvr(module: str) -> object:
    try:
        return importlib.import_module(f"dmvr.{module}")
    except ModuleNotFoundError as error:
        raise UserError(
            "dmvr is not installed; install it with: pip install git+https://github.com/google-deepmind/dmvr"
        ) from error
