"""Where clips come from: records, TFDS data sets, video files or DMVR factories, all read through one `Source`."""

import dataclasses
import os
import re
from collections.abc import Callable, Iterator

import ml_collections
import numpy as np
import tensorflow as tf

from dist_jax.data import annotations, augment, record_index, records
from dist_jax.data.sampling import Features
from dist_jax.errors import UserError, warn

_LABEL_KEYS = {"label": records.LABEL, "verb": records.VERB, "noun": records.NOUN}

_LARGE = 1 << 20  # bytes of a record
_LOOKED_AT = 32  # records whose class names are compared before a run


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


def open_source(data: ml_collections.ConfigDict, split: str) -> Source:
    """The clips of `split` ("train" or "val") as `config.data` names them.

    Raises:
        UserError: missing, truncated or changed files, an empty set, records that call their classes by the names of
            others; one line that says what to do.
    """
    if not data[split]:
        raise UserError(f"data.{split} is empty: say where the {split} clips are (data.source={data.source})")
    names = class_names(data)
    # The others are imported where they are wanted: TFDS alone takes seconds.
    if data.source == "tfds":
        from dist_jax.data import tfds_source

        return tfds_source.open_source(data[split], data.label, len(names))
    if data.source == "videos":
        from dist_jax.data import video_source

        return video_source.open_source(data[split], data.videos, names)
    if data.source == "dmvr":
        from dist_jax.data import dmvr_factory

        return dmvr_factory.open_source(data, split, len(names))
    index = record_index.load_index(data[split])
    if data.label == "label":
        _check_names(index, names)
    if is_large(index):
        from dist_jax.data import frame_reader

        return frame_reader.open_source(index, _LABEL_KEYS[data.label], len(names))
    return encoded_source(index, record_parser(_LABEL_KEYS[data.label]), len(names))


def is_large(index: record_index.ShardIndex) -> bool:
    """Whether looking for the chosen frames beats reading whole records: they are large, and in local files."""
    return index.length.mean() > _LARGE and not any("://" in path for path in index.paths)


def class_names(data: ml_collections.ConfigDict) -> list[str]:
    """The K class names; a class's number is its line's place in the file of labels, counted from 0.

    Without a file, a TFDS data set names its own classes, and those of a list of videos are its labels in order of the
    alphabet.

    Raises:
        UserError: no such file, an empty line, a name that stands twice.
    """
    if data.source == "tfds" and not data.labels:
        from dist_jax.data import tfds_source

        return tfds_source.class_names(data.train, data.label)
    if data.source == "dmvr" and not data.labels:
        raise UserError("data.labels is empty: with data.source=dmvr it names the file of class names, one a line")
    path = data.labels or os.path.join(_folder(data.train), "labels.txt")
    if tf.io.gfile.exists(path):
        return annotations.read_labels(path)
    if data.source == "videos" and not data.labels:
        from dist_jax.data import video_source

        return sorted({clip.label for clip in video_source.read_clips(data.train)})
    raise UserError(f"{path}: no file of class names there; set data.labels to one (one name a line){_hint(data)}")


def _check_names(index: record_index.ShardIndex, names: list[str]) -> None:
    """Compares what some records call their classes with the names that count; records need not say it.

    A name that no class has may be meant, a better text for CLIP: that is a warning. The name of another class is not.
    """
    plain = {_plain(name): number for number, name in enumerate(names)}
    warned = False
    for record, number, text in _named_labels(index):
        if not 0 <= number < len(names) or _plain(names[number]) == _plain(text):
            continue
        said = f"{index.where(record)} calls class {number} {text!r}, the class names {names[number]!r}"
        if _plain(text) in plain:
            raise UserError(
                f"{said}, and {text!r} is their class {plain[_plain(text)]}: give the file that belongs to these "
                "records as data.labels"
            )
        if not warned:
            warn(f"{said}: is it the file (data.labels) that belongs to these records?")
            warned = True


def _named_labels(index: record_index.ShardIndex) -> Iterator[tuple[int, int, str]]:
    """Record, class number and class name of some records that say both, spread over the set."""
    from dist_jax.data import frame_reader

    for record in np.unique(np.linspace(0, len(index) - 1, _LOOKED_AT).astype(int)).tolist():
        context = frame_reader.read_context(index, record)
        if context is not None:
            numbers = context.feature[records.LABEL].int64_list.value
            texts = context.feature[records.LABEL_TEXT].bytes_list.value
            if len(numbers) == len(texts):
                yield from ((record, n, t.decode(errors="replace")) for n, t in zip(numbers, texts, strict=True))


def _hint(data: ml_collections.ConfigDict) -> str:
    """What the training records say of their classes, for who has to write a file of them."""
    if data.source != "records" or data.label != "label" or data.labels:
        return ""
    try:
        found = next(_named_labels(record_index.load_index(data.train)), None)
    except UserError:  # no records either: said where they are opened
        return ""
    return "" if found is None else f"; these records say {records.LABEL_TEXT}, class {found[1]} being {found[2]!r}"


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _folder(location: str) -> str:
    return location if tf.io.gfile.isdir(location) else os.path.dirname(location)


def encoded_source(index: record_index.ShardIndex, parse: Callable[[tf.Tensor], Features], classes: int) -> Source:
    """Clips of encoded images in TFRecords, taken out of a record's bytes by `parse` as `encoded_clip` gives them."""
    read_bytes = indexed_reader(index)

    def read(record: tf.Tensor) -> Features:
        features = parse(read_bytes(record))
        return features | {"id": clip_id(features["id"], record)}

    return Source(len(index), classes, read, decode_encoded, index.where, index.identity)


def clip_id(name: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
    """The name of a clip (bytes [0 or more] -> bytes []); one that has none is named by its number."""
    joined = tf.strings.reduce_join(name, separator=" ")
    return tf.where(joined == "", tf.strings.as_string(record), joined)


def indexed_reader(index: record_index.ShardIndex) -> Callable[[tf.Tensor], tf.Tensor]:
    """Record number (int64 []) -> the record's bytes, read and checked by TensorFlow's own reader; gs:// as well."""
    paths, shard = tf.constant(index.paths), tf.constant(index.shard)
    offset, length = tf.constant(index.offset), tf.constant(index.length)

    def read(record: tf.Tensor) -> tf.Tensor:
        dataset = tf.raw_ops.TFRecordDatasetV2(
            filenames=tf.gather(paths, tf.gather(shard, record))[None],
            compression_type="",
            buffer_size=tf.gather(length, record) + 16,  # the record and its framing in one request
            byte_offsets=tf.gather(offset, record)[None],
        )
        first = tf.raw_ops.TakeDataset(
            input_dataset=dataset, count=tf.constant(1, tf.int64), output_types=[tf.string], output_shapes=[[]]
        )
        return tf.raw_ops.DatasetToSingleElement(dataset=first, output_types=[tf.string], output_shapes=[[]])[0]

    return read


def record_parser(label_key: str) -> Callable[[tf.Tensor], Features]:
    """A serialized SequenceExample -> the features that `Source.read` gives, with `encoded` (bytes [num_frames])."""

    def parse(serialized: tf.Tensor) -> Features:
        labels, name, lists = _parsed(serialized, label_key, {records.FRAMES: tf.io.RaggedFeature(tf.string)})
        frames = lists[records.FRAMES].values  # [num_frames, 1 each]
        one_each = tf.debugging.assert_equal(
            tf.cast(frames.row_lengths(), tf.int32), 1, "a frame of the record is empty"
        )
        with tf.control_dependencies([one_each]):
            return encoded_clip(tf.identity(frames.flat_values), labels, name)

    return parse


def parse_context(serialized: tf.Tensor, label_key: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels (int64 [any]) and name (bytes [0 or more]) of a serialized SequenceExample."""
    return _parsed(serialized, label_key, {})[:2]


def _parsed(serialized: tf.Tensor, label_key: str, lists: dict) -> tuple[tf.Tensor, tf.Tensor, Features]:
    wanted = {label_key: tf.io.RaggedFeature(tf.int64), records.FILENAME: tf.io.RaggedFeature(tf.string)}
    # The parser of batches is the faster one: it does not build the message first.
    context, lists, _ = tf.io.parse_sequence_example(serialized[None], wanted, lists)
    return context[label_key].flat_values, context[records.FILENAME].flat_values, lists


def encoded_clip(encoded: tf.Tensor, labels: tf.Tensor, name: tf.Tensor) -> Features:
    """The features of a clip: encoded images (bytes [num_frames]), labels (int64 [any]), name (bytes [0 or more])."""
    num_frames, height, width = clip_size(encoded, encoded[:1])
    features = {"num_frames": num_frames, "height": height, "width": width, "labels": labels}
    return features | {"encoded": encoded, "id": name}


def clip_size(frames: tf.Tensor, first: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Number of frames (anything [num_frames]), and their height and width by the first's header (bytes, one)."""
    num_frames = tf.size(frames)
    with tf.control_dependencies([tf.debugging.assert_positive(num_frames, "the record holds no frames")]):
        height, width = augment.image_size(tf.reshape(first, []))
    return num_frames, height, width


def decode_encoded(features: Features) -> Features:
    """Decodes the chosen frames' window of a clip of encoded images; drops `encoded`."""
    encoded = tf.gather(features["encoded"], features["indices"])
    video = augment.decode_images(encoded, features["window"])
    return {key: value for key, value in features.items() if key != "encoded"} | {"video": video}
