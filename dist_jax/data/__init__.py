"""Input pipeline: records or other sources -> uint8 batches, by Python threads and NumPy.

TensorFlow, on the CPU only, reads remote files and TFDS, parses messages, and decodes what `simplejpeg` cannot.
"""

import os

# Hide TensorFlow's start-up messages. Must be set before TensorFlow is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import ml_collections
import tensorflow as tf

# JAX owns the accelerators. Without these lines TensorFlow reserves their memory at its first operation.
tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")
tf.config.threading.set_intra_op_parallelism_threads(1)  # clips are read in parallel, one thread each


def num_cores() -> int:
    """Number of CPU cores this process may use. In a container this can be less than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def input_threads(data: ml_collections.ConfigDict) -> int:
    """Number of threads that read clips. `data` is config.data. Default: cores + 1, as one can wait for a disk."""
    return data.num_threads or num_cores() + 1
