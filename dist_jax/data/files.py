"""Small text files, local or remote (gs://...)."""

import uuid

import tensorflow as tf

from dist_jax.errors import UserError


def read_text(path: str) -> str:
    """The UTF-8 text of a file; UserError if it cannot be read."""
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read().decode("utf-8-sig")
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'message', error)})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error


def write_text(path: str, text: str) -> None:
    """Writes a whole file or none: under a temporary name, which is then renamed."""
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    with tf.io.gfile.GFile(partial, "w") as file:
        file.write(text)
    tf.io.gfile.rename(partial, path, overwrite=True)
