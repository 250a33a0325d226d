"""Video files to RGB frames with PyAV. No TensorFlow."""
