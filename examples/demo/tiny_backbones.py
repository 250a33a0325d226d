"""The tiny backbones of the demo. KINDS is the table of kinds: their sizes, loss and files."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dist_jax.models.backbones.text_tower import TextConfig
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.weights import clip, siglip
from dist_jax.weights.backbone_model import BackboneModel
from examples.demo import bpe

RESOLUTION = 64  # pixels
CONTEXT_LENGTH = 20  # tokens; the longest caption has 14
CLIP_VISION = VisionConfig(width=128, num_layers=4, num_heads=4, patch_size=32, resolution=RESOLUTION, embed_dim=64)
# SigLIP's image embedding has the width of its image tower.
SIGLIP_VISION = dataclasses.replace(CLIP_VISION, embed_dim=CLIP_VISION.width, activation="gelu_pytorch_tanh")
MAX_SCALE = np.log(100)  # limit of CLIP's logit scale in the training


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of backbone.

    Attributes:
        model: its class in dist_jax.
        vision: sizes of the image tower.
        scalars: initial parameters of the loss.
        scalar_rate: learning rate of the scalars, relative to that of the encoders.
        adam_b2: decay rate of the second moment in AdamW.
        steps: training steps.
        loss: (cosines [n, n] of n images and their n captions, parameters) -> float [].
        save_tokenizer: (directory, merges, tokens of the longest text) -> number of tokens; writes the tokenizer files.
        save: (model, directory): writes config.json and model.safetensors.
        image_processor: content of preprocessor_config.json that other kinds do not have.
    """

    model: type[BackboneModel]
    vision: VisionConfig
    scalars: Mapping[str, float]
    scalar_rate: float
    adam_b2: float
    steps: int
    loss: Callable[[jax.Array, dict], jax.Array]
    save_tokenizer: Callable[[Path, list[tuple[str, str]], int], int]
    save: Callable[..., None]
    image_processor: Mapping[str, object]

    def untrained(self, directory: Path, merges: list[tuple[str, str]]) -> BackboneModel:
        """Writes the tokenizer to `directory`. Returns the model, still without parameters."""
        text = TextConfig(
            width=64,
            num_layers=1,
            num_heads=2,
            vocab_size=self.save_tokenizer(directory, merges, CONTEXT_LENGTH),
            context_length=CONTEXT_LENGTH,
            embed_dim=self.vision.embed_dim,
            activation=self.vision.activation,
        )
        return self.model(self.vision, text, {}, str(directory), str(directory), fingerprint="")

    def preprocessing(self) -> dict:
        """The content of preprocessor_config.json."""
        return {
            **self.image_processor,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "image_mean": self.model.backbone_class.mean,
            "image_std": self.model.backbone_class.std,
            "do_convert_rgb": True,
        }


def softmax_loss(cosines: jax.Array, params: dict) -> jax.Array:
    """CLIP's loss (arXiv 2103.00020): cross-entropy in both directions. [n, n] -> []."""
    logits = jnp.exp(jnp.minimum(params["logit_scale"], MAX_SCALE)) * cosines
    matching = jnp.arange(len(logits))
    losses = (optax.softmax_cross_entropy_with_integer_labels(x, matching).mean() for x in (logits, logits.T))
    return sum(losses) / 2


def sigmoid_loss(cosines: jax.Array, params: dict) -> jax.Array:
    """SigLIP's loss (arXiv 2303.15343): every pair is one decision, "matches" or "does not match". [n, n] -> []."""
    logits = jnp.exp(params["logit_scale"]) * cosines + params["logit_bias"]
    signs = 2 * jnp.eye(len(logits)) - 1
    return -jnp.mean(jnp.sum(jax.nn.log_sigmoid(signs * logits), axis=1))


_SQUARE = {"height": RESOLUTION, "width": RESOLUTION}

KINDS = {
    "clip": Kind(
        model=clip.ClipModel,
        vision=CLIP_VISION,
        scalars={"logit_scale": np.log(1 / 0.07)},
        scalar_rate=1.0,
        adam_b2=0.999,
        steps=1200,
        loss=softmax_loss,
        save_tokenizer=bpe.save_clip_tokenizer,
        save=clip.save_huggingface,
        image_processor={
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": RESOLUTION},
            "do_center_crop": True,
            "crop_size": _SQUARE,
        },
    ),
    "siglip": Kind(
        model=siglip.SiglipModel,
        vision=SIGLIP_VISION,
        # The best bias for random embeddings is about -log(64) for batches of 64 (SigLIP: -10 for 32,000). At the rate
        # of the encoders, scale and bias would stay near the initial values in such a short training.
        scalars={"logit_scale": np.log(10), "logit_bias": -4.1},
        scalar_rate=10.0,
        adam_b2=0.95,  # as in the paper
        steps=2400,  # the sigmoid loss needs about twice as many as CLIP's loss here
        loss=sigmoid_loss,
        save_tokenizer=bpe.save_siglip_tokenizer,
        save=siglip.save_huggingface,
        image_processor={"image_processor_type": "SiglipImageProcessor", "size": _SQUARE},
    ),
}
