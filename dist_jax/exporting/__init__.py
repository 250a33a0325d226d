"""Models as artefacts that run without this project: StableHLO, SavedModel, ONNX (`python -m dist_jax.export`)."""
