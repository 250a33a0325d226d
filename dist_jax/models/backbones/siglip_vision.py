"""SigLIP's image tower (Zhai et al., arXiv 2303.15343): a ViT without class token, pooled by attention."""

from typing import ClassVar

import jax

from dist_jax.models.backbones.attention_pooling import AttentionPooling
from dist_jax.models.backbones.vision_tower import VisionTower
from dist_jax.models.layers import ACTIVATIONS, TOKEN_INIT

EPS = 1e-6  # of all LayerNorms in SigLIP


class SiglipVision(VisionTower):
    """The image tower. No prefix token; E = D."""

    eps: ClassVar[float] = EPS
    patch_bias: ClassVar[bool] = True

    def setup(self) -> None:  # noqa: D102
        super().setup()
        c = self.config
        self.positions = self.param("positions", TOKEN_INIT, (c.num_patches, c.width))
        self.head = AttentionPooling(c.num_heads, c.mlp_dim, ACTIVATIONS[c.activation], self.dtype, EPS)

    def __call__(self, frames: jax.Array) -> jax.Array:
        """Normalised frames [F, H, W, 3] -> SigLIP's image embeddings [F, E] in `dtype`, not normalised."""
        return self.pool(self.features(frames[:, None], (self.config.num_layers - 1,))[0, 0])

    def pool(self, stream: jax.Array) -> jax.Array:
        """The stream after the last block [..., N, D] -> image embeddings [..., D] in `dtype`, not normalised."""
        return self.head(self.ln_post(stream))

    def tokens(self, frames: jax.Array) -> jax.Array:
        """See `VisionTower.tokens`."""
        patches = self.patch_embedding(frames).transpose(2, 1, 0, 3)  # [S, B, N, D]
        return patches + self.positions.astype(self.dtype)[None, None]
