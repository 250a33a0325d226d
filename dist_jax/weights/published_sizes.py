"""Image towers of published models by hub id. Reads no file."""

from typing import Any

from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.backbones.pe import PeBackbone
from dist_jax.models.backbones.pe_vision import PeVisionConfig
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


def _pe(
    width: int, num_layers: int, num_heads: int, patch_size: int, resolution: int, embed_dim: int, **options: Any
) -> PeBackbone:
    return PeBackbone(PeVisionConfig(width, num_layers, num_heads, patch_size, resolution, embed_dim, **options))


_SIGLIP = {  # width, blocks, heads, hidden width of the MLPs
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giant-opt": (1536, 40, 16, 6144),
}

_PE_B16 = _pe(768, 12, 12, 16, 224, 1024)
_PE_L14 = _pe(1024, 24, 16, 14, 336, 1024)
_PE_G14 = _pe(1536, 50, 16, 14, 448, 1280, mlp_dim=8960, class_token=False)

# From the config.json of each repository. Perception Encoder: perception_models, core/vision_encoder/config.py.
PUBLISHED: dict[str, VitBackbone] = {
    "openai/clip-vit-base-patch32": _clip(768, 12, 12, 32, 224, 512),
    "openai/clip-vit-base-patch16": _clip(768, 12, 12, 16, 224, 512),
    "openai/clip-vit-large-patch14": _clip(1024, 24, 16, 14, 224, 768),
    "openai/clip-vit-large-patch14-336": _clip(1024, 24, 16, 14, 336, 768),
    "apple/DFN5B-CLIP-ViT-H-14": _clip(1280, 32, 16, 14, 224, 1024),
    "apple/DFN5B-CLIP-ViT-H-14-378": _clip(1280, 32, 16, 14, 378, 1024),
    "facebook/metaclip-h14-fullcc2.5b": _clip(1280, 32, 16, 14, 224, 1024),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": _clip(1280, 32, 16, 14, 224, 1024, activation="gelu"),
    "laion/CLIP-ViT-g-14-laion2B-s12B-b42K": _clip(1408, 40, 16, 14, 224, 1024, activation="gelu", mlp_dim=6144),
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": _clip(1664, 48, 16, 14, 224, 1280, activation="gelu", mlp_dim=8192),
    "timm/PE-Core-B-16": _PE_B16,
    "timm/PE-Core-L-14-336": _PE_L14,
    "timm/PE-Core-bigG-14-448": _PE_G14,
    "facebook/PE-Core-B16-224": _PE_B16,
    "facebook/PE-Core-L14-336": _PE_L14,
    "facebook/PE-Core-G14-448": _PE_G14,
    **{
        f"google/siglip-{size}-patch{patch_size}-{resolution}": _siglip(size, patch_size, resolution)
        for size, patch_size, resolutions in (
            ("base", 16, (224, 256, 384, 512)),
            ("large", 16, (256, 384)),
            ("so400m", 14, (224, 384)),
        )
        for resolution in resolutions
    },
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
