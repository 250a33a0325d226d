"""Converts video files and annotations to DMVR TFRecords, offline (`python -m dist_jax.build_records`)."""

import dist_jax.data  # noqa: F401 (sets TensorFlow's environment before the modules here import it)
