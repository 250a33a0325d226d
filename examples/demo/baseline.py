"""Baseline without DiST: a linear classifier on the frozen CLIP's image embeddings, averaged over the frames.

python -m examples.demo.baseline --config=configs/demo.py --output=demo/baseline.json
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from absl import app, flags

from dist_jax.data import pipeline, sources
from dist_jax.errors import UserError, exit_with_message
from dist_jax.main import CONFIG, parse_flags
from dist_jax.models import preprocess
from dist_jax.models.backbones.clip import CLIP_MEAN, CLIP_STD
from dist_jax.models.backbones.clip_vision import ClipVision
from dist_jax.weights import clip

OUTPUT = flags.DEFINE_string("output", None, "Output JSON file of the accuracies.")
STEPS = 500


def main(argv: Sequence[str]) -> None:
    """Fits the classifier on the training clips and measures its accuracy on the validation clips."""
    if len(argv) > 1 or CONFIG.value is None or OUTPUT.value is None:
        raise UserError("usage: python -m examples.demo.baseline --config=configs/demo.py --output=FILE.json")
    output = Path(OUTPUT.value)
    if output.exists():
        print(f"baseline: {output} already exists")
        return
    clip_model = clip.load(CONFIG.value.backbone.weights, resolution=CONFIG.value.data.resolution)
    (train, train_labels), (val, val_labels) = (
        mean_features(CONFIG.value, clip_model, split) for split in ("train", "val")
    )
    mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-6
    train, val = (train - mean) / deviation, (val - mean) / deviation
    kernel, bias = fit(train, train_labels)
    accuracies = {
        "train_top1": float(np.mean(np.argmax(train @ kernel + bias, axis=1) == train_labels)),
        "top1": float(np.mean(np.argmax(val @ kernel + bias, axis=1) == val_labels)),
    }
    output.write_text(json.dumps(accuracies) + "\n")


def mean_features(
    config: ml_collections.ConfigDict, clip_model: clip.ClipModel, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Unit-length CLIP image embeddings averaged over the T frames of each video, float32 [n, E]; labels int32 [n]."""
    config = config.copy_and_resolve_references()
    config.eval.num_views, config.eval.num_crops = 1, 1
    module = ClipVision(clip_model.vision)

    @jax.jit
    def embed(video: jax.Array) -> jax.Array:  # uint8 [b, T, H, W, 3] -> [b, E]
        frames = preprocess.normalize(video.reshape(-1, *video.shape[2:]), CLIP_MEAN, CLIP_STD)  # [b * T, H, W, 3]
        features = module.apply({"params": clip_model.params["vision"]}, frames)  # [b * T, E]
        features /= jnp.linalg.norm(features, axis=-1, keepdims=True)
        return features.reshape(*video.shape[:2], -1).mean(axis=1)

    source, rows = sources.open_source(config.data, split), np.arange(config.eval.batch_size)
    features, labels = [], []
    for batch in pipeline.eval_batches(config, source, rows, clip_model.vision.resolution):
        real = batch["mask"] > 0
        features.append(np.asarray(embed(batch["video"][:, 0]))[real])
        labels.append(batch["labels"]["label"][real])
    return np.concatenate(features), np.concatenate(labels)


def fit(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression with weight decay 1e-3: features [n, E], labels [n] -> kernel [E, K], bias [K]."""
    params = (jnp.zeros((features.shape[1], labels.max() + 1)), jnp.zeros(labels.max() + 1))
    optimizer = optax.lbfgs()

    def loss(params: tuple[jax.Array, jax.Array]) -> jax.Array:
        kernel, bias = params
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(features @ kernel + bias, labels)
        return cross_entropy.mean() + 1e-3 * jnp.sum(kernel**2)

    def step(_: int, carry: tuple) -> tuple:
        params, state = carry
        value, gradient = optax.value_and_grad_from_state(loss)(params, state=state)
        updates, state = optimizer.update(gradient, state, params, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(params, updates), state

    params, _ = jax.jit(lambda carry: jax.lax.fori_loop(0, STEPS, step, carry))((params, optimizer.init(params)))
    return jax.device_get(params)


if __name__ == "__main__":
    exit_with_message(lambda: app.run(main, argv=sys.argv, flags_parser=parse_flags))
