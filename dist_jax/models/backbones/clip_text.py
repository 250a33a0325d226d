"""CLIP's text tower (Radford et al., arXiv 2103.00020): a causal transformer, read at the end-of-text token."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dist_jax.models.backbones.text_tower import TextTower


class ClipText(TextTower):
    """The text tower."""

    def embed(self, x: jax.Array, tokens: jax.Array) -> jax.Array:
        """See `TextTower.embed`."""
        c = self.config
        at_end = tokens if c.end_token is None else tokens == c.end_token
        end = jnp.argmax(at_end, axis=1)  # [K]
        x = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]  # [K, width]
        proj = self.param("proj", nn.initializers.normal(c.width**-0.5), (c.width, c.embed_dim))
        return jnp.dot(x, proj.astype(self.dtype))
