"""Offline: video files and annotations to DMVR TFRecords (`python -m dist_jax.build_records`)."""
