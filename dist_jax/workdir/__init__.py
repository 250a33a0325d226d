"""Files of a training run: run metadata, checkpoints, the training state."""
