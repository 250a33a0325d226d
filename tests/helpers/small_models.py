"""Small CLIP and DiST models with random parameters, and a tokenizer of letters."""

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import dist_jax
from dist_jax import config
from dist_jax.inference.predictor import Predictor
from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.backbones.text_tower import TextConfig
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.models.dist_network import DistConfig
from dist_jax.models.networks import has_own_classes, reads_last_layer
from dist_jax.models.video_model import VideoModel
from dist_jax.weights import clip as clip_weights
from dist_jax.weights import dist_official, model_directory, table
from dist_jax.weights.clip import ClipModel
from dist_jax.workdir import checkpoints
from dist_jax.workdir.run_metadata import RunMetadata, write_run_metadata
from dist_jax.workdir.train_state import TrainState

VISION = VisionConfig(width=128, num_layers=3, num_heads=2, patch_size=4, resolution=8, embed_dim=32)
TEXT = TextConfig(width=128, num_layers=2, num_heads=2, vocab_size=54, context_length=8, embed_dim=32)
DIST = DistConfig(
    num_frames=4,
    alpha=2,
    layers=(0, 1, 2),
    patch_size=4,
    backbone_width=128,
    embed_dim=32,
    integration_width=64,
    temporal_width=8,
    num_pooling_layers=2,
)
CLASSES = ("a dog", "a cat", "surfing")
NUM_CLASSES = 5  # of random batches


def random_params(shapes: table.Shapes, seed: int) -> dict:
    """A float32 parameter tree: kernels scaled by their fan-in, LayerNorm scales near 1, no parameter 0 or 1."""
    rng = np.random.default_rng(seed)
    leaves = {}
    for path, shape in shapes.items():
        x = rng.standard_normal(shape).astype(np.float32)
        fan_in = np.prod(shape[:-1]) / (shape[0] if path.startswith(("blocks", "layers", "pooling")) else 1)
        if path.endswith("scale"):
            x = 1 + np.float32(0.1) * x
        elif path.endswith(("kernel", "proj")):
            x = x / np.sqrt(np.float32(fan_in))
        else:
            x = np.float32(0.2) * x
        leaves[path] = x
    return table.unflatten(leaves)


def clip_model(
    seed: int = 0, vision: VisionConfig = VISION, text: TextConfig | None = TEXT, tokenizer: str | None = None
) -> ClipModel:
    """A CLIP with NumPy parameters. exp(logit_scale) is 10, so that the logits are not close to one-hot."""
    shapes = model_directory.param_shapes(DIST, ClipBackbone(vision, text), num_classes=0)
    params = {"logit_scale": np.log(np.float32(10))}
    for tower in ("vision", "text") if text else ("vision",):
        prefix = f"clip/{tower}/"
        tower_shapes = {path.removeprefix(prefix): shape for path, shape in shapes.items() if path.startswith(prefix)}
        params[tower] = random_params(tower_shapes, seed)
    return ClipModel(vision, text, params, tokenizer, "small CLIP", f"{seed:064}")


def model(seed: int = 0, dist: DistConfig = DIST, **clip_options: object) -> model_directory.Model:
    """A DiST model on `clip_model(seed, **clip_options)`, without classes."""
    params = random_params(dist_official.param_shapes(dist), seed + 1)
    return model_directory.Model(dist, params, clip_model(seed, **clip_options))


def eval_protocol(**changes: object) -> model_directory.EvalProtocol:
    """The evaluation protocol of the default configuration, with changes."""
    return dataclasses.replace(model_directory.EvalProtocol.from_config(config.defaults()), **changes)


def predictor(model: model_directory.Model, **options: object) -> Predictor:
    """`dist_jax.load` of a model directory with this model."""
    with tempfile.TemporaryDirectory() as folder:
        model_directory.write(Path(folder) / "model", model)
        return dist_jax.load(Path(folder) / "model", **options)


def video_model(network: str = "dist", num_classes: Mapping[str, int] | None = None) -> VideoModel:
    """A model on the CLIP of `clip_model()`; `num_classes` of each label, default: those of CLASSES."""
    num_classes = num_classes or {"label": len(CLASSES)}
    own_classes = sum(num_classes.values()) if has_own_classes(network) else 0
    layers = DIST.layers[-1:] if reads_last_layer(network) else DIST.layers
    dist = dataclasses.replace(DIST, layers=layers, num_labels=len(num_classes), num_classes=own_classes)
    return VideoModel(ClipBackbone(VISION), dist, network_name=network, label_names=tuple(num_classes))


def network_params(model: VideoModel, seed: int = 1) -> dict:
    """Random NumPy parameters of the network of a model, as those of `model()`."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return random_params({path: leaf.shape for path, leaf in table.flatten(shapes).items()}, seed)


def write_workdir(
    directory: Path,
    clip_directory: str,
    network: str = "dist",
    class_names: Mapping[str, Sequence[str]] | None = None,
    **model_entries: object,
) -> str:
    """Writes the workdir of a training of `video_model(network)` with the parameters `network_params`.

    `class_names` are by label name, default: CLASSES. `model_entries` are added to "model" in run.json.
    """
    class_names = {name: list(names) for name, names in (class_names or {"label": CLASSES}).items()}
    trained = video_model(network, {name: len(names) for name, names in class_names.items()})
    settings = config.defaults()
    settings.backbone.weights = clip_directory
    settings.model.network = network
    settings.data.label_key = ",".join(class_names)
    settings.eval.num_views, settings.eval.zero_shot_weight = 2, 0.0 if trained.has_own_classes else 0.25
    sizes = dataclasses.asdict(trained.dist) | {"layers": list(trained.dist.layers), "resolution": VISION.resolution}
    sizes |= model_entries
    backbone = {"name": clip_directory, "fingerprint": clip_weights.load(clip_directory).fingerprint}
    write_run_metadata(directory, RunMetadata(settings.to_dict(), class_names, backbone, sizes, num_records=10))
    manager = checkpoints.Checkpoints(directory, max_to_keep=1, best_metric="top1")
    params = jax.tree.map(jnp.asarray, network_params(trained))
    state = TrainState(jnp.asarray(3, jnp.int32), params, {"count": jnp.zeros(())}, None)
    manager.save(3, state, {"top1": 0.5})
    manager.close()
    return str(directory)


def write_tokenizer(directory: Path) -> str:
    """Writes a tokenizer of 54 tokens: the letters a to z, the same at the end of a word, start and end."""
    directory.mkdir(parents=True, exist_ok=True)
    letters = [chr(ord("a") + i) for i in range(26)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (directory / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (directory / "merges.txt").write_text("#version: 0.2\n")
    return str(directory)


def video(num_clips: int = 2, dist: DistConfig = DIST, resolution: int = 8, seed: int = 3) -> np.ndarray:
    """Random pixels uint8 [B, T, H, W, 3]."""
    return np.random.default_rng(seed).integers(
        0, 256, (num_clips, dist.num_frames, resolution, resolution, 3), dtype=np.uint8
    )


def write_pyth(path: Path, state: Mapping[str, np.ndarray]) -> Path:
    """Writes a published checkpoint; skips the test if PyTorch is not installed."""
    torch = pytest.importorskip("torch")
    torch.save({"epoch": 3, "model_state": {name: torch.from_numpy(np.array(x)) for name, x in state.items()}}, path)
    return path


def make_config() -> ml_collections.ConfigDict:
    """A batch of sixteen clips, mixed in groups of two."""
    settings = config.defaults()
    settings.batch_size = 16
    settings.mix.group_size = 2
    settings.optimizer.learning_rate = 1e-2
    settings.optimizer.warmup_epochs = 1.0
    settings.epochs = 4.0
    return settings


def random_batch(step: int, batch_size: int = 16) -> dict:
    """A random training batch for the model, from the step number."""
    rng = np.random.default_rng(step)
    return {
        "video": rng.integers(0, 256, (batch_size, 4, 8, 8, 3), dtype=np.uint8),
        "labels": {"label": rng.integers(0, NUM_CLASSES, batch_size, dtype=np.int32)},
    }
