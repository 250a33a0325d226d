"""A whole training run that takes seconds: records, a CLIP directory and a configuration; in this process or in others.

As a configuration file it takes the folder of `make_data`: --config=tests/training_run.py:FOLDER
"""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections
import numpy as np

from dist_jax import checkpoint, sharding, train
from dist_jax import config as settings

ROOT = Path(__file__).parents[1]
TRAIN, VAL = 20, 11  # records: neither is a multiple of anything else here
STEPS = 10  # of batch_size clips: eight passes over the training records


def get_config(folder: str) -> ml_collections.ConfigDict:
    """Sixteen clips a batch in groups of two, so that eight devices hold whole groups."""
    config = settings.defaults()
    config.batch_size = 16
    config.steps = STEPS
    config.clip.weights = f"{folder}/clip"
    config.model.frames = 4
    config.model.integration_width = 64
    config.model.temporal_width = 8
    config.model.pooling_layers = 1
    config.data.train = f"{folder}/train@3"
    config.data.val = f"{folder}/val@2"
    config.data.threads = 2
    config.augment.color_jitter = 0.2
    config.mix.group = 2
    config.optimizer.learning_rate = 1e-2
    config.optimizer.warmup_epochs = 1.0
    config.eval.every_epochs = 3.0
    config.eval.batch_size = 8
    config.eval.views = 2
    config.checkpoint.every_steps = 3
    config.log.every_steps = 1
    config.compilation_cache = f"{folder}/compiled"
    return config


def make_data(folder: Path) -> Path:
    """Records, labels and a CLIP with a tokenizer, as `get_config` names them."""
    import small_models
    import small_records

    from dist_jax.weights import clip

    examples = [small_records.example(number) for number in range(TRAIN + VAL)]
    small_records.write_shards(folder, examples[:TRAIN], 3, "train")
    small_records.write_shards(folder, examples[TRAIN:], 2, "val")
    save_clip(folder / "clip", small_models.clip())
    return folder


def save_clip(folder: Path, clip: object) -> None:
    """A CLIP directory as Hugging Face lays it out."""
    import small_models

    from dist_jax.weights.clip import save_huggingface

    save_huggingface(clip, folder)
    small_models.write_tokenizer(folder)
