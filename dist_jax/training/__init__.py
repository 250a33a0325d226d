"""The training loop, the training step and everything that runs only during training."""
