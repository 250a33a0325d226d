"""Image towers of published models by hub id. Reads no file."""

from typing import Any

from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.backbones.siglip import SiglipBackbone
from dist_jax.models.backbones.vision_tower import VisionConfig
from dist_jax.models.backbones.vit import VitBackbone


def _clip(
    width: int, num_layers: int, num_heads: int, patch_size: int, resolution: int, embed_dim: int, **options: Any
) -> ClipBackbone:
    return ClipBackbone(VisionConfig(width, num_layers, num_heads, patch_size, resolution, embed_dim, **options))


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
    "openai/clip-vit-base-patch32": _clip(768, 12, 12, 32, 224, 512),
    "openai/clip-vit-base-patch16": _clip(768, 12, 12, 16, 224, 512),
    "openai/clip-vit-large-patch14": _clip(1024, 24, 16, 14, 224, 768),
    "openai/clip-vit-large-patch14-336": _clip(1024, 24, 16, 14, 336, 768),
    "apple/DFN5B-CLIP-ViT-H-14": _clip(1280, 32, 16, 14, 224, 1024),
    "apple/DFN5B-CLIP-ViT-H-14-378": _clip(1280, 32, 16, 14, 378, 1024),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": _clip(1280, 32, 16, 14, 224, 1024, activation="gelu"),
    "laion/CLIP-ViT-g-14-laion2B-s12B-b42K": _clip(1408, 40, 16, 14, 224, 1024, activation="gelu", mlp_dim=6144),
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": _clip(1664, 48, 16, 14, 224, 1280, activation="gelu", mlp_dim=8192),
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
