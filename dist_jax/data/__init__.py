"""Clips on their way to the network. TensorFlow is used here alone, on the CPU alone."""

import os

# TensorFlow's start-up notes say nothing about the user's data.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf

# The accelerator's memory belongs to JAX: TensorFlow would otherwise reserve it at its first operation.
tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")


def cores() -> int:
    """Cores that this process may use; in a container they are often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
