"""Image towers of published CLIP models by hub id, and the shapes of their parameters. Reads no file."""

import jax
import jax.numpy as jnp

from dist_jax.models.backbones.clip_vision import ClipVision, VisionConfig

_B32 = VisionConfig(width=768, num_layers=12, num_heads=12, patch_size=32, resolution=224, embed_dim=512)
_B16 = VisionConfig(width=768, num_layers=12, num_heads=12, patch_size=16, resolution=224, embed_dim=512)
_L14 = VisionConfig(width=1024, num_layers=24, num_heads=16, patch_size=14, resolution=224, embed_dim=768)
_L14_336 = VisionConfig(width=1024, num_layers=24, num_heads=16, patch_size=14, resolution=336, embed_dim=768)

# From the config.json of each repository.
VISION: dict[str, VisionConfig] = {
    "openai/clip-vit-base-patch32": _B32,
    "openai/clip-vit-base-patch16": _B16,
    "openai/clip-vit-large-patch14": _L14,
    "openai/clip-vit-large-patch14-336": _L14_336,
}


def vision_shapes(vision: VisionConfig) -> dict:
    """The parameter tree of ClipVision: float32 ShapeDtypeStructs."""
    frames = jax.ShapeDtypeStruct((1, vision.resolution, vision.resolution, 3), jnp.float32)
    return jax.eval_shape(ClipVision(vision).init, jax.random.key(0), frames)["params"]
