"""Converts video files and annotations to DMVR TFRecords, offline (`python -m dist_jax.build_records`)."""
