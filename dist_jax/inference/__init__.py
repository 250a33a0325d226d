"""A trained model applied to arrays and video files."""
