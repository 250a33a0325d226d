"""Inference with a trained model on arrays and video files. No module here imports TensorFlow."""
