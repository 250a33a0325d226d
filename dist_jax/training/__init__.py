"""Training: loop, training step, optimizer, augmentation on the accelerator, logs."""
