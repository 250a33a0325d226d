"""Clips of encoded images in TFRecords: SequenceExamples in DMVR's format, and records that TensorFlow parses."""

import array
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from dist_jax.data import record_index, records, sequence_example
from dist_jax.data.image_decoding import Encoded, EncodedFrames, image_size
from dist_jax.data.record_reader import record_reader, tensorflow_reader
from dist_jax.data.source import Source, StoredClip
from dist_jax.errors import UserError


def sequence_source(
    index: record_index.ShardIndex, label_features: Mapping[str, str], num_classes: Mapping[str, int]
) -> Source:
    """A source of SequenceExamples. `label_features` maps a label name to its context feature.

    All frames of a record are found and checked when it is read for the first time, as its checksum is. Later, only the
    context and the chosen frames are read. The positions of the frames take 4 bytes each: 0.3 GB for 240,000 clips of
    300 frames.
    """
    reader = record_reader(index)
    known_starts: list[Sequence[int] | None] = [None] * len(index)

    def read(record: int) -> StoredClip:
        data = reader.read(record)
        starts = known_starts[record]
        if starts is None:
            context, starts = sequence_example.parse(data)
            sequence_example.check_frames(data, starts)
            if sequence_example.leading_context(data) == context:  # TensorFlow always writes it first
                known_starts[record] = array.array("I" if len(data) < 2**32 else "Q", starts)
        else:
            context = sequence_example.leading_context(data)
        labels = _labels(context, label_features)
        names = _bytes_list(context, records.NARRATION_ID) or _bytes_list(context, records.FILENAME)

        def image(number: int) -> memoryview:
            return sequence_example.frame_bytes(data, starts[number])

        def prefetch(numbers: Iterable[int]) -> None:
            for number in numbers:
                reader.prefetch(record, starts[number], starts[number + 1] if number + 1 < len(starts) else len(data))

        return encoded_clip(len(starts), image, labels, b" ".join(names), record, prefetch)

    def read_labels(record: int) -> dict[str, np.ndarray] | None:
        context = read_context(index, record)
        return None if context is None else _labels(context, label_features)

    return Source(len(index), num_classes, read, index.location, index.identity, labels=read_labels)


def parsed_source(
    index: record_index.ShardIndex,
    parse: Callable[[tf.Tensor], tuple[tf.Tensor, dict[str, tf.Tensor]]],
    num_classes: Mapping[str, int],
) -> Source:
    """A source of other records. `parse` is a TensorFlow function: a record's bytes -> frames and labels.

    Frames are encoded images, bytes [num_frames]; labels are class numbers by label name, int64 [any number].
    """

    def as_numpy(parsed: tuple[tf.Tensor, dict[str, tf.Tensor]]) -> tuple[tf.Tensor, dict[str, np.ndarray]]:
        encoded, labels = parsed
        return encoded, {name: label.numpy() for name, label in labels.items()}

    read_record = tensorflow_reader(index, parse, as_numpy)

    def read(record: int) -> StoredClip:
        encoded, labels = read_record(record)

        def image(number: int) -> bytes:
            return encoded[number].numpy()  # copies this frame only

        return encoded_clip(len(encoded), image, labels, b"", record)

    return Source(len(index), num_classes, read, index.location, index.identity)


def encoded_clip(
    num_frames: int,
    image: Callable[[int], Encoded],
    labels: Mapping[str, np.ndarray],
    name: bytes,
    record: int,
    prefetch: Callable[[Iterable[int]], None] = lambda numbers: None,
) -> StoredClip:
    """A clip of encoded images of one size.

    Args:
        num_frames: number of images.
        image: frame number -> JPEG or PNG.
        labels: by label name, int64, any number.
        name: of the clip; a clip without a name gets its record number.
        record: the record number.
        prefetch: starts to read the frames with these numbers; called before `image`.

    Raises:
        UserError: no frames.
        ImageError: the first frame cannot be decoded.
    """
    if not num_frames:
        raise UserError("the record contains no frames")
    size = image_size(image(0))

    def frames(indices: np.ndarray, window: np.ndarray) -> EncodedFrames:
        numbers = set(indices.tolist())
        prefetch(numbers)
        images = {number: image(number) for number in numbers}
        return EncodedFrames([images[index] for index in indices.tolist()], size, window)

    return StoredClip(num_frames, *size, labels, name or str(record).encode(), frames)


def read_context(index: record_index.ShardIndex, record: int) -> tf.train.Features | None:
    """The context of a record, without its frames and without a checksum.

    None if it cannot be read or does not precede the frames. TensorFlow always writes it first.
    """
    try:
        with record_index.open_shard(index.paths[index.shard[record]]) as file:
            file.seek(int(index.offset[record]) + record_index.HEADER_BYTES)
            data = memoryview(file.read(min(int(index.length[record]), sequence_example.MAX_CONTEXT_BYTES)))
        return sequence_example.leading_context(data)
    except UserError:
        return None


def _labels(context: tf.train.Features, label_features: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Class numbers by label name, int64 [any number]. Raises UserError if a feature has another type."""
    return {name: _int64_list(context, feature) for name, feature in label_features.items()}


def _int64_list(context: tf.train.Features, name: str) -> np.ndarray:
    """The numbers of a context feature, int64 [any number]. Raises UserError if it has another type."""
    kind = context.feature[name].WhichOneof("kind")
    if kind not in (None, "int64_list"):
        raise UserError(f"the feature {name} of the record is a {kind}, expected an int64_list")
    return np.array(context.feature[name].int64_list.value, np.int64)


def _bytes_list(context: tf.train.Features, name: str) -> list[bytes]:
    """The strings of a context feature. Raises UserError if it has another type."""
    kind = context.feature[name].WhichOneof("kind")
    if kind not in (None, "bytes_list"):
        raise UserError(f"the feature {name} of the record is a {kind}, expected a bytes_list")
    return list(context.feature[name].bytes_list.value)
