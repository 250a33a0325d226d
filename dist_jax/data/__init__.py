"""Clips on their way to the network. TensorFlow is used here alone, on the CPU alone."""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Sends to nowhere what anything below Python writes to standard error."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


# TensorFlow's start-up notes say nothing about the user's data. That oneDNN is on it says past every setting; off, it
# would take fresh memory from the system for every clip, and the input pipeline would make 70 clips/s instead of 120.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
with _without_stderr():
    import tensorflow as tf

# The accelerator's memory belongs to JAX: TensorFlow would otherwise reserve it at its first operation.
tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")


def cores() -> int:
    """Cores that this process may use; in a container they are often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
