"""Trains a tiny CLIP on images with captions and saves it as a Hugging Face CLIP directory.

    python -m examples.demo.train_tiny_clip --output demo/clip

The image and text encoders are dist_jax's; the loss is CLIP's. OUTPUT has the same files as
`openai/clip-vit-base-patch16`: config.json, model.safetensors, preprocessor_config.json and the tokenizer files.
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from dist_jax.errors import UserError, exit_with_message
from dist_jax.models import preprocess
from dist_jax.models.backbones.clip import CLIP_MEAN, CLIP_STD
from dist_jax.models.backbones.clip_text import ClipText
from dist_jax.models.backbones.clip_vision import ClipVision
from dist_jax.models.backbones.text_tower import TextConfig
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.models.layers import unit
from dist_jax.text import tokenizer
from dist_jax.weights import clip
from examples.demo import bpe, scenes, stills

RESOLUTION = 64  # pixels
CONTEXT_LENGTH = 20  # tokens; the longest caption has 14
MAX_MERGES = 400
VISION = VisionConfig(width=128, num_layers=4, num_heads=4, patch_size=32, resolution=RESOLUTION, embed_dim=64)
BATCH_SIZE = 64
LEARNING_RATE = 2e-3


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Images and their captions."""

    images: np.ndarray  # uint8 [n, RESOLUTION, RESOLUTION, 3]
    tokens: np.ndarray  # int32 [n, CONTEXT_LENGTH]


def main() -> None:
    """Trains and saves the CLIP."""
    args = _parser().parse_args()
    if args.steps < 1 or args.stills < BATCH_SIZE:
        raise UserError(f"--steps {args.steps} must be at least 1, --stills {args.stills} at least {BATCH_SIZE}")
    output, settings = Path(args.output), {"stills": args.stills, "steps": args.steps, "seed": args.seed}
    if finished(output, settings):
        print(f"train_tiny_clip: {output} already contains the tiny CLIP")
        return
    output.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([args.seed, 2])
    images, captions = stills.captioned_stills(rng, args.stills, RESOLUTION)
    # The tokenizer is byte-level and encodes any text; the merges shorten the demo's words.
    bpe.save_tokenizer(output, bpe.learn_merges([*captions, *scenes.MOTIONS], MAX_MERGES), CONTEXT_LENGTH)
    encoder = tokenizer.load(str(output))
    pairs = Pairs(images, tokenizer.encode(encoder, captions, CONTEXT_LENGTH))
    text = TextConfig(
        width=64,
        num_layers=1,
        num_heads=2,
        vocab_size=len(encoder),
        context_length=CONTEXT_LENGTH,
        embed_dim=64,
        end_token=encoder.eos_token_id,
    )
    params = train(text, pairs, rng, args.steps, args.seed)
    save(output, text, params)
    (output / "settings.json").write_text(json.dumps(settings) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder for the CLIP")
    parser.add_argument(
        "--steps", type=int, default=1200, help=f"training steps of {BATCH_SIZE} pairs (default: %(default)s)"
    )
    parser.add_argument("--stills", type=int, default=8192, help="number of training images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    return parser


def finished(output: Path, settings: dict[str, int]) -> bool:
    """True if `output` contains the trained CLIP. Raises UserError if it was trained with other settings."""
    file = output / "settings.json"
    if not file.exists():
        return False
    existing = json.loads(file.read_text())
    if existing != settings:
        raise UserError(f"{output} was trained with {existing}, not {settings}: use another --output or delete it")
    return True


def train(text: TextConfig, pairs: Pairs, rng: np.random.Generator, steps: int, seed: int) -> dict:
    """Trains both encoders. Returns {"vision": ClipVision parameters, "text": ClipText parameters, "logit_scale"}."""
    params = initial_params(text, jax.random.key(seed))
    schedule = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, max(1, steps // 10), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.05))
    state = optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: dict, state: optax.OptState, images: jax.Array, tokens: jax.Array) -> tuple:
        loss, gradient = jax.value_and_grad(contrastive_loss)(params, text, images, tokens)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    with tqdm(total=steps, desc="tiny CLIP", unit="step", disable=None) as bar:
        for number, rows in zip(range(1, steps + 1), batches(rng, len(pairs.images)), strict=False):
            params, state, loss = step(params, state, pairs.images[rows], pairs.tokens[rows])
            if number % 20 == 0 or number == steps:
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
    print(f"train_tiny_clip: {steps} steps, contrastive loss {loss:.3f}")
    return jax.device_get(params)


def batches(rng: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """Endless row indices of batches. A batch has complete scenes, so many of its pairs differ in pose only."""
    starts = np.arange(0, count - stills.POSES_PER_SCENE + 1, stills.POSES_PER_SCENE)
    while True:
        selected = rng.choice(starts, BATCH_SIZE // stills.POSES_PER_SCENE, replace=False)
        yield (selected[:, None] + np.arange(stills.POSES_PER_SCENE)).reshape(-1)


def contrastive_loss(params: dict, text: TextConfig, images: jax.Array, tokens: jax.Array) -> jax.Array:
    """CLIP's loss for images uint8 [n, R, R, 3], tokens int32 [n, CONTEXT_LENGTH]: cross-entropy in both directions."""
    image_embeddings = ClipVision(VISION).apply(
        {"params": params["vision"]}, preprocess.normalize(images, CLIP_MEAN, CLIP_STD)
    )
    text_embeddings = ClipText(text).apply({"params": params["text"]}, tokens)
    scale = jnp.exp(jnp.minimum(params["logit_scale"], np.log(100)))
    logits = scale * unit(image_embeddings) @ unit(text_embeddings).T  # [n, n]
    matching = jnp.arange(len(logits))
    losses = (optax.softmax_cross_entropy_with_integer_labels(x, matching).mean() for x in (logits, logits.T))
    return sum(losses) / 2


@functools.partial(jax.jit, static_argnums=0)  # one program compiles faster than its single operations
def initial_params(text: TextConfig, key: jax.Array) -> dict:
    """Initial parameters, scaled for narrow encoders."""
    image_key, text_key = jax.random.split(key)
    params = {
        "vision": ClipVision(VISION).init(image_key, jnp.zeros((1, RESOLUTION, RESOLUTION, 3)))["params"],
        "text": ClipText(text).init(text_key, jnp.zeros((1, CONTEXT_LENGTH), jnp.int32))["params"],
        "logit_scale": jnp.asarray(np.log(1 / 0.07), jnp.float32),
    }
    return jax.tree_util.tree_map_with_path(_rescale, params)


def _rescale(path: tuple, leaf: jax.Array) -> jax.Array:
    """Scales up the initial standard deviation of 0.02, which is made for a width of 768."""
    match [step.key for step in path]:
        case ["vision", "positions"]:
            return leaf * 25
        case [*_, "token_embedding"]:
            return leaf * 15
        case [*_, "fc" | "proj" | "out", "kernel"]:
            return leaf * 4
    return leaf


def save(output: Path, text: TextConfig, params: dict) -> None:
    """Writes the configuration, the weights and the image preprocessing."""
    # Published CLIP models end at the maximum scale, 100. This short training reaches about 20, where similar class
    # names get almost equal scores. The scale does not change the ranking.
    params = {**params, "logit_scale": jnp.asarray(np.log(100), jnp.float32)}
    clip_model = clip.ClipModel(VISION, text, params, str(output), str(output), fingerprint="")
    clip.save_huggingface(clip_model, output)
    preprocessing = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": RESOLUTION},
        "do_center_crop": True,
        "crop_size": {"height": RESOLUTION, "width": RESOLUTION},
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "do_convert_rgb": True,
    }
    (output / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2) + "\n")


if __name__ == "__main__":
    exit_with_message(main)
