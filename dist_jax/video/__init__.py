"""Video files to RGB frames (PyAV), lists of videos, and views and crops of a video at test time. No TensorFlow."""
