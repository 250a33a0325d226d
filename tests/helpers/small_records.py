"""Small sets of records for tests of the input pipeline."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from dist_jax.data import records

NUM_CLASSES = 5
SIZE = (24, 32)  # height and width of the stored frames


def picture(record, frame, size=SIZE):
    """A smooth picture, uint8 [h, w, 3]: red is 8 * record, green 12 * frame, blue a gradient."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    planes = [np.full(size, 8 * record % 256), np.full(size, 12 * frame % 256), 2 * rows + 3 * columns]
    return np.stack(planes, axis=-1).astype(np.uint8)


def jpeg(image, quality=95):
    return tf.io.encode_jpeg(image, quality=quality).numpy()


def decoded(clip, indices=None, window=None):
    """Frames of a stored clip, uint8 [m, h, w, 3]. Default: all frames, not cropped."""
    indices = np.arange(clip.num_frames) if indices is None else np.array(indices)
    window = np.array([0, 0, clip.height, clip.width] if window is None else window)
    return np.stack([frame.copy() for frame in clip.frames(indices, window)])


def stored_pixels(record, frame, size=SIZE):
    """The picture as decoded from its JPEG, uint8 [h, w, 3]."""
    return tf.io.decode_jpeg(jpeg(picture(record, frame, size)), dct_method="INTEGER_ACCURATE").numpy()


def example(record, frames=6, size=SIZE):
    """A clip of 1, 1.1 or 1.2 seconds."""
    images = [jpeg(picture(record, frame, size)) for frame in range(frames)]
    label, end_us = record % NUM_CLASSES, 1_000_000 + 100_000 * (record % 3)
    return records.make_example(images, label, f"class {label}", f"{record}.mp4", 0, end_us)


def write_shards(folder: Path, examples, shards=3, name="train"):
    """Writes serialized examples round robin to shards, and labels.txt. Returns the shards' pattern NAME@N."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        with tf.io.TFRecordWriter(records.shard_path(str(folder / name), shard, shards)) as writer:
            for serialized in examples[shard::shards]:
                writer.write(serialized)
    (folder / "labels.txt").write_text("".join(f"class {k}\n" for k in range(NUM_CLASSES)))
    return f"{folder / name}@{shards}"
