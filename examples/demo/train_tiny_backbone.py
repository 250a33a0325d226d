"""Trains a tiny CLIP or SigLIP on images with captions and saves it as a Hugging Face directory.

    python -m examples.demo.train_tiny_backbone --output demo/clip
    python -m examples.demo.train_tiny_backbone --kind siglip --output demo/siglip

The image and text encoders are dist_jax's; the losses are those of CLIP and SigLIP. OUTPUT has the same files as
`openai/clip-vit-base-patch16` or `google/siglip2-base-patch16-224`: config.json, model.safetensors,
preprocessor_config.json and the tokenizer files.
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from dist_jax.errors import UserError, exit_with_message
from dist_jax.models import preprocess
from dist_jax.models.backbones.vit import VitBackbone
from dist_jax.models.layers import unit
from examples.demo import bpe, scenes, stills
from examples.demo.tiny_backbones import CONTEXT_LENGTH, KINDS, MAX_SCALE, RESOLUTION, Kind

MAX_MERGES = 400
BATCH_SIZE = 64
LEARNING_RATE = 2e-3


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Images and their captions."""

    images: np.ndarray  # uint8 [n, RESOLUTION, RESOLUTION, 3]
    tokens: np.ndarray  # int32 [n, CONTEXT_LENGTH]


def main() -> None:
    """Trains and saves the backbone."""
    args = _parser().parse_args()
    output, kind = Path(args.output), KINDS[args.kind]
    steps = kind.steps if args.steps is None else args.steps
    if steps < 1 or args.stills < BATCH_SIZE:
        raise UserError(f"--steps {steps} must be at least 1, --stills {args.stills} at least {BATCH_SIZE}")
    settings = {"kind": args.kind, "stills": args.stills, "steps": steps, "seed": args.seed}
    if finished(output, settings):
        print(f"train_tiny_backbone: {output} already contains the tiny backbone")
        return
    output.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([args.seed, 2])
    images, captions = stills.captioned_stills(rng, args.stills, RESOLUTION)
    # The tokenizer is byte-level and encodes any text; the merges shorten the demo's words.
    model = kind.untrained(output, bpe.learn_merges([*captions, *scenes.MOTIONS], MAX_MERGES))
    pairs = Pairs(images, model.tokenize(captions))
    params = train(kind, model.backbone(), pairs, rng, steps, args.seed)
    kind.save(dataclasses.replace(model, params=with_final_scale(params)), output)
    (output / "preprocessor_config.json").write_text(json.dumps(kind.preprocessing(), indent=2) + "\n")
    (output / "settings.json").write_text(json.dumps(settings) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder for the backbone")
    parser.add_argument("--kind", choices=KINDS, default="clip", help="kind of backbone (default: %(default)s)")
    steps = ", ".join(f"{kind.steps} for {name}" for name, kind in KINDS.items())
    parser.add_argument("--steps", type=int, help=f"training steps of {BATCH_SIZE} pairs (default: {steps})")
    parser.add_argument("--stills", type=int, default=8192, help="number of training images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    return parser


def finished(output: Path, settings: dict[str, int | str]) -> bool:
    """True if `output` contains the trained backbone. Raises UserError if it was trained with other settings."""
    file = output / "settings.json"
    if not file.exists():
        return False
    existing = json.loads(file.read_text())
    if existing != settings:
        raise UserError(f"{output} was trained with {existing}, not {settings}: use another --output or delete it")
    return True


def train(kind: Kind, backbone: VitBackbone, pairs: Pairs, rng: np.random.Generator, steps: int, seed: int) -> dict:
    """Trains both encoders and the parameters of the loss. Returns the frozen tree of the backbone."""
    params = initial_params(backbone, kind.scalars, jax.random.key(seed))
    schedule = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, max(1, steps // 10), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=kind.adam_b2, weight_decay=0.05))
    state = optimizer.init(params)

    def loss_of(params: dict, images: jax.Array, tokens: jax.Array) -> jax.Array:
        return kind.loss(cosines(backbone, params, images, tokens), params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: dict, state: optax.OptState, images: jax.Array, tokens: jax.Array) -> tuple:
        loss, gradient = jax.value_and_grad(loss_of)(params, images, tokens)
        updates, state = optimizer.update(gradient, state, params)
        updates |= {name: kind.scalar_rate * updates[name] for name in kind.scalars}
        return optax.apply_updates(params, updates), state, loss

    with tqdm(total=steps, desc="tiny backbone", unit="step", disable=None) as bar:
        for number, rows in zip(range(1, steps + 1), batches(rng, len(pairs.images)), strict=False):
            params, state, loss = step(params, state, pairs.images[rows], pairs.tokens[rows])
            if number % 20 == 0 or number == steps:
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
    print(f"train_tiny_backbone: {steps} steps, contrastive loss {loss:.3f}")
    return jax.device_get(params)


def batches(rng: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """Endless row indices of batches. A batch has complete scenes, so many of its pairs differ in pose only."""
    starts = np.arange(0, count - stills.POSES_PER_SCENE + 1, stills.POSES_PER_SCENE)
    while True:
        selected = rng.choice(starts, BATCH_SIZE // stills.POSES_PER_SCENE, replace=False)
        yield (selected[:, None] + np.arange(stills.POSES_PER_SCENE)).reshape(-1)


def cosines(backbone: VitBackbone, params: dict, images: jax.Array, tokens: jax.Array) -> jax.Array:
    """Cosines of all images with all captions: uint8 [n, R, R, 3], int32 [n, CONTEXT_LENGTH] -> float32 [n, n]."""
    frames = preprocess.normalize(images, backbone.mean, backbone.std)
    image_embeddings = backbone.vision_tower(backbone.vision).apply({"params": params["vision"]}, frames)  # [n, E]
    return unit(image_embeddings) @ unit(backbone.text_embeddings(params, tokens)).T


def initial_params(backbone: VitBackbone, scalars: Mapping[str, float], key: jax.Array) -> dict:
    """The initial frozen tree, scaled for narrow encoders."""

    @jax.jit  # one program compiles faster than its single operations
    def init(image_key: jax.Array, text_key: jax.Array) -> dict:
        frames, tokens = jnp.zeros((1, RESOLUTION, RESOLUTION, 3)), jnp.zeros((1, CONTEXT_LENGTH), jnp.int32)
        params = {
            "vision": backbone.vision_tower(backbone.vision).init(image_key, frames)["params"],
            "text": backbone.text_tower(backbone.text).init(text_key, tokens)["params"],
        }
        return jax.tree_util.tree_map_with_path(_rescale, params)

    return init(*jax.random.split(key)) | {name: jnp.float32(value) for name, value in scalars.items()}


def _rescale(path: tuple, leaf: jax.Array) -> jax.Array:
    """Scales up the initial standard deviation of 0.02, which is made for a width of 768."""
    match [step.key for step in path]:
        case ["vision", "positions"] | ["vision", "head", "probe"]:
            return leaf * 25
        case [*_, "token_embedding"]:
            return leaf * 15
        case [*_, "fc" | "proj" | "out" | "head", "kernel"]:
            return leaf * 4
    return leaf


def with_final_scale(params: dict) -> dict:
    """Replaces the logit scale by the one at which published models end, 100, without effect on rankings.

    This short training reaches about 20, where similar class names get almost equal scores. SigLIP's bias is scaled in
    the same proportion, so the sign of every logit stays.
    """
    factor = np.exp(MAX_SCALE - params["logit_scale"])
    scaled = {name: np.float32(factor * params[name]) for name in params if name == "logit_bias"}
    return {**params, "logit_scale": np.float32(MAX_SCALE), **scaled}


if __name__ == "__main__":
    exit_with_message(main)
