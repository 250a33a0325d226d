"""CLIP's image tower (Radford et al., arXiv 2103.00020): a ViT with a class token."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dist_jax.models.backbones.vision_tower import VisionTower, with_class_token
from dist_jax.models.layers import TOKEN_INIT, LayerNorm


class ClipVision(VisionTower):
    """The image tower. One prefix token: the class token."""

    def setup(self) -> None:  # noqa: D102
        super().setup()
        c = self.config
        self.class_token = self.param("class_token", TOKEN_INIT, (c.width,))
        self.positions = self.param("positions", TOKEN_INIT, (1 + c.num_patches, c.width))
        self.ln_pre = LayerNorm(self.dtype)
        self.proj = self.param("proj", nn.initializers.normal(c.width**-0.5), (c.width, c.embed_dim))

    def __call__(self, frames: jax.Array) -> jax.Array:
        """Normalised frames [F, H, W, 3] -> CLIP's image embeddings float32 [F, E], not normalised."""
        return self.embed(self.features(frames[:, None], (self.config.num_layers - 1,))[0, 0, :, 0])

    def embed(self, class_tokens: jax.Array) -> jax.Array:
        """Class tokens after the last block [..., D] -> image embeddings float32 [..., E], not normalised."""
        return jnp.dot(self.ln_post(class_tokens), self.proj.astype(self.dtype)).astype(jnp.float32)

    def tokens(self, frames: jax.Array) -> jax.Array:
        """See `VisionTower.tokens`."""
        x = with_class_token(self.class_token, self.patch_embedding(frames)).transpose(2, 1, 0, 3)  # [S, B, 1+N, D]
        return self.ln_pre(x + self.positions.astype(self.dtype)[None, None])
