"""What a run leaves on disk: run metadata, checkpoints, the training state."""
