"""Image towers of published models by hub id. Reads no file."""

from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.backbones.siglip import SiglipBackbone
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.models.backbones.vit import VitBackbone


def _clip(width: int, num_layers: int, patch_size: int, resolution: int, embed_dim: int) -> ClipBackbone:
    return ClipBackbone(VisionConfig(width, num_layers, width // 64, patch_size, resolution, embed_dim))


def _siglip(size: str, patch_size: int, resolution: int) -> SiglipBackbone:
    width, num_layers, num_heads, mlp_dim = _SIGLIP[size]
    resolution -= resolution % patch_size  # the patch embedding ignores the rest
    return SiglipBackbone(
        VisionConfig(width, num_layers, num_heads, patch_size, resolution, width, "gelu_pytorch_tanh", mlp_dim)
    )


_SIGLIP = {  # width, blocks, heads, hidden width of the MLPs
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giant-opt": (1536, 40, 16, 6144),
}

# From the config.json of each repository.
PUBLISHED: dict[str, VitBackbone] = {
    "openai/clip-vit-base-patch32": _clip(768, 12, 32, 224, 512),
    "openai/clip-vit-base-patch16": _clip(768, 12, 16, 224, 512),
    "openai/clip-vit-large-patch14": _clip(1024, 24, 14, 224, 768),
    "openai/clip-vit-large-patch14-336": _clip(1024, 24, 14, 336, 768),
    **{
        f"google/siglip2-{size}-patch{patch_size}-{resolution}": _siglip(size, patch_size, resolution)
        for size, patch_size, resolutions in (
            ("base", 32, (256,)),
            ("base", 16, (224, 256, 384, 512)),
            ("large", 16, (256, 384, 512)),
            ("so400m", 14, (224, 384)),
            ("so400m", 16, (256, 384, 512)),
            ("giant-opt", 16, (256, 384)),
        )
        for resolution in resolutions
    },
}
