"""The image tower of Perception Encoder Core (Bolya et al., arXiv 2504.13181): a ViT with rotary positions."""

import dataclasses

import jax
import jax.numpy as jnp

from dist_jax.models.backbones.attention_pooling import AttentionPooling
from dist_jax.models.backbones.vision_tower import VisionConfig, VisionTower, with_class_token
from dist_jax.models.layers import ACTIVATIONS, TOKEN_INIT, LayerNorm, Linear
from dist_jax.models.rotary import Rotary

# The pooling head of all published models (perception_models, core/vision_encoder/config.py and pe.py).
POOL_HEADS = 8
POOL_MLP_RATIO = 4


@dataclasses.dataclass(frozen=True)
class PeVisionConfig(VisionConfig):
    """Sizes of an image tower of Perception Encoder."""

    activation: str = "gelu"
    class_token: bool = True
    trained_grid: int = 0  # patches along each side in the training; 0: those of `resolution`

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.trained_grid:
            object.__setattr__(self, "trained_grid", self.resolution // self.patch_size)

    @property
    def num_prefix_tokens(self) -> int:
        """P, tokens before the patches."""
        return int(self.class_token)


class PeVision(VisionTower):
    """The image tower. Its positions are learned for the tokens, and rotary in the attention of the blocks."""

    config: PeVisionConfig

    def setup(self) -> None:  # noqa: D102
        super().setup()
        c = self.config
        if c.class_token:
            self.class_token = self.param("class_token", TOKEN_INIT, (c.width,))
        self.positions = self.param("positions", TOKEN_INIT, (c.num_prefix_tokens + c.num_patches, c.width))
        self.ln_pre = LayerNorm(self.dtype, self.eps)
        pool_mlp, activation = POOL_MLP_RATIO * c.width, ACTIVATIONS[c.activation]
        self.head = AttentionPooling(POOL_HEADS, pool_mlp, activation, self.dtype, self.eps)
        self.proj = Linear(c.embed_dim, dtype=self.dtype)

    @property
    def rotary(self) -> Rotary:
        """See `VisionTower.rotary`. The class token is at (0, 0), so that the patches start at (1, 1)."""
        c = self.config
        return Rotary(c.resolution // c.patch_size, c.trained_grid, c.num_prefix_tokens, first=c.num_prefix_tokens)

    def __call__(self, frames: jax.Array) -> jax.Array:
        """Normalised frames [F, H, W, 3] -> image embeddings float32 [F, E], not normalised."""
        return self.embed(self.features(frames[:, None], (self.config.num_layers - 1,))[0, 0])

    def pool(self, stream: jax.Array) -> jax.Array:
        """The stream after a block [..., P+N, D] -> the pooled vector [..., D] in `dtype`."""
        return self.head(self.ln_post(stream))

    def embed(self, stream: jax.Array) -> jax.Array:
        """The stream after the last block [..., P+N, D] -> image embeddings float32 [..., E], not normalised."""
        return self.proj(self.pool(stream)).astype(jnp.float32)

    def tokens(self, frames: jax.Array) -> jax.Array:
        """See `VisionTower.tokens`."""
        x = self.patch_embedding(frames)  # [N, B, S, D]
        if self.config.class_token:
            x = with_class_token(self.class_token, x)
        x = x.transpose(2, 1, 0, 3)  # [S, B, P+N, D]
        return self.ln_pre(x + self.positions.astype(self.dtype)[None, None])
