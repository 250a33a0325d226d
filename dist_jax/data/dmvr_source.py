"""To and from DMVR (github.com/google-deepmind/dmvr), which is imported only when something here is used.

`ClipFactory` is a DMVR factory built from this project's sampling and augmentation. `open_source` makes any factory the
source of a run: it takes the factory's shards and parser, and leaves sampling and augmentation to the configuration, so
that order and randomness stay those of (seed, epoch, record).
"""

import functools
import importlib
import inspect
import json
from collections.abc import Sequence

import ml_collections
import tensorflow as tf

from dist_jax.data import record_index, records, transforms
from dist_jax.data.encoded_clips import encoded_clip, encoded_source
from dist_jax.data.sampling import Features, eval_views, train_frames
from dist_jax.data.source import Source
from dist_jax.errors import UserError


def __getattr__(name: str) -> type:
    """`ClipFactory`, made at first use: its base class needs dmvr."""
    if name == "ClipFactory":
        return _clip_factory()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _clip_factory() -> type:
    builders, sources, video_dataset = (_dmvr(name) for name in ("builders", "sources", "video_dataset"))

    class ClipFactory(video_dataset.BaseVideoDatasetFactory):
        """Clips as the network sees them: `image` uint8 [T, H, W, 3], `label` int32 [].

        Without is_training `image` is [V * crops, T, H, W, 3], the crops of one of the V views side by side.
        """

        def __init__(self, shards: str | Sequence[str]) -> None:
            """For shards as `records.find_shards` takes them, or their paths."""
            paths = records.find_shards(shards) if isinstance(shards, str) else list(shards)
            super().__init__(paths, builders.SequenceExampleParserBuilder, sources.TFRecordsSource())

        def _build(
            self,
            is_training: bool = True,
            frames: int = 16,
            resolution: int = 224,
            sampling: str = "segments",
            stride: int = 4,
            views: int = 3,
            crops: int = 1,
            crop_area: Sequence[float] = (0.4, 1.0),
            crop_aspect: Sequence[float] = (0.75, 4 / 3),
            flip: float = 0.5,
            flip_labels: Sequence[int] = (),
            label: str = records.LABEL,
        ) -> None:
            """The recipe, under the names that config.data, config.augment and config.eval give to its numbers."""
            if sampling not in ("segments", "dense"):
                raise UserError(f"sampling={sampling!r}: wanted 'segments' or 'dense'")
            image = builders.IMAGE_FEATURE_NAME
            label_name = builders.LABEL_INDEX_FEATURE_NAME
            frames_type = tf.io.FixedLenSequenceFeature((), dtype=tf.string)
            self.parser_builder.parse_feature(records.FRAMES, frames_type, image)
            self.parser_builder.parse_feature(label, tf.io.VarLenFeature(tf.int64), label_name, is_context=True)

            def sample(features: Features) -> Features:
                labels = tf.sparse.to_dense(features[label_name])
                some = tf.debugging.assert_positive(tf.size(labels), f"the record has no label {label}")
                with tf.control_dependencies([some]):
                    ours = encoded_clip(features[image], tf.identity(labels), tf.constant([], tf.string))
                if not is_training:
                    return transforms.whole_frame(eval_views(ours, sampling, frames, stride, views))
                # DMVR's pipelines draw from TensorFlow's own generator: tf.random.set_seed makes them repeatable.
                ours["seed"] = tf.random.uniform([2], maxval=tf.int64.max, dtype=tf.int64)
                ours = train_frames(ours, sampling, frames, stride)
                return transforms.random_resized_crop(ours, crop_area, crop_aspect)

            def decode(features: Features) -> Features:
                encoded = tf.gather(features["encoded"], tf.reshape(features["indices"], [-1]))
                return features | {"video": transforms.decode_images(encoded, features["window"])}

            def preprocess(features: Features) -> Features:
                features["label"] = tf.cast(features["labels"][0], tf.int32)
                if is_training:
                    features = transforms.resize(features, resolution, resolution)
                    features = transforms.random_flip(features, flip, flip_labels)
                    shape = [frames, resolution, resolution, 3]
                else:
                    features = transforms.short_side_crops(features, resolution, crops)
                    shape = [views * crops, frames, resolution, resolution, 3]
                    by_view = [tf.reshape(crop, [views, *shape[1:]]) for crop in tf.unstack(features["video"])]
                    features["video"] = tf.stack(by_view, axis=1)
                return {image: tf.reshape(features["video"], shape), label_name: features["label"]}

            self.sampler_builder.add_fn(sample, fn_name="dist_jax_sample")
            self.decoder_builder.add_fn(decode, fn_name="dist_jax_decode")
            self.preprocessor_builder.add_fn(preprocess, fn_name="dist_jax_preprocess")

    return ClipFactory


def open_source(data: ml_collections.ConfigDict, split: str, class_names: Sequence[str]) -> Source:
    """The clips of the factory data.dmvr_factory.

    Args:
        data: config.data. The arguments of the factory's constructor and of its `configure` come from the JSON object
            data.dmvr_options and, for this split alone, from the JSON object data.train or data.val.
        split: "train" or "val".
        class_names: K names.

    Raises:
        UserError: no dmvr, no such factory, arguments that it does not take, shards that are no plain TFRecords,
            filters, or a parser without frames and the label that data.label_key names.
    """
    builders, sources = _dmvr("builders"), _dmvr("sources")
    factory = _configured(data, split)
    if type(factory._source) is not sources.TFRecordsSource or factory._source._compression_type:
        raise UserError(f"{data.dmvr_factory} reads no plain TFRecords, which is what an index of records needs")
    if any(factory.filter_builder._filter_fns.values()):
        raise UserError(f"{data.dmvr_factory} filters its records; write the wanted ones to records of their own")
    parse_all = factory.parser_builder.build()
    found = tf.function(parse_all).get_concrete_function(tf.TensorSpec([], tf.string)).structured_outputs
    label = builders.LABEL_INDEX_FEATURE_NAME if data.label_key == "label" else data.label_key
    missing = {builders.IMAGE_FEATURE_NAME, label} - found.keys()
    if missing:
        raise UserError(f"{data.dmvr_factory} parses {sorted(found)}; {sorted(missing)} is missing (data.label_key)")

    def parse(serialized: tf.Tensor) -> Features:
        features = parse_all(serialized)
        labels = features[label]
        labels = labels.values if isinstance(labels, tf.SparseTensor) else tf.reshape(labels, [-1])
        return encoded_clip(
            features[builders.IMAGE_FEATURE_NAME], tf.cast(labels, tf.int64), tf.constant([], tf.string)
        )

    return encoded_source(record_index.load_index_of(factory._shards), parse, len(class_names))


def class_names(data: ml_collections.ConfigDict) -> list[str]:
    """Raises UserError: a DMVR factory has no class names of its own."""
    raise UserError(
        f"data.class_names_file is empty; data.source={data.source} needs a file of class names, one per line"
    )


def _configured(data: ml_collections.ConfigDict, split: str) -> object:
    module, _, name = data.dmvr_factory.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"data.dmvr_factory={data.dmvr_factory!r}: wanted module:ClassName ({error})") from error
    arguments = _json_object("data.dmvr_options", data.dmvr_options or "{}")
    arguments |= _json_object(f"data.{split}", data[split])
    taken = inspect.signature(factory.__init__).parameters
    configured = inspect.signature(factory._build).parameters
    unknown = sorted(arguments.keys() - taken.keys() - configured.keys())
    if unknown:
        raise UserError(f"{data.dmvr_factory} does not take {unknown}; it takes {[*taken, *configured]}")
    try:
        made = factory(**{key: value for key, value in arguments.items() if key in taken})
        return made.configure(**{key: value for key, value in arguments.items() if key not in taken})
    except (TypeError, ValueError) as error:  # an argument is missing, say
        raise UserError(
            f"{data.dmvr_factory} cannot be made with {arguments} (data.dmvr_options and data.{split}): {error}"
        ) from error


def _json_object(field: str, text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{field}={text!r} is not JSON ({error}); with data.source=dmvr it is an object") from error
    if not isinstance(value, dict):
        raise UserError(f"{field}={text!r}: wanted a JSON object of the factory's arguments")
    return value


def _dmvr(module: str) -> object:
    try:
        return importlib.import_module(f"dmvr.{module}")
    except ModuleNotFoundError as error:
        raise UserError(
            "dmvr is not installed and not on the package index: pip install git+https://github.com/google-deepmind/dmvr"
        ) from error
