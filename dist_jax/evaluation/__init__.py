"""Evaluation of a model on a validation set: scores, metrics, result files."""
