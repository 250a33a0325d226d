"""CLIP's text tower (Radford et al., arXiv 2103.00020): a causal transformer, read at the end-of-text token."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from dist_jax.models.block import Block
from dist_jax.models.layers import ACTIVATIONS, TOKEN_INIT, LayerNorm


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Sizes of a text tower."""

    width: int
    num_layers: int
    num_heads: int
    vocab_size: int
    context_length: int  # tokens of the longest text
    embed_dim: int  # E
    activation: str = "quick_gelu"  # quick_gelu | gelu
    end_token: int | None = None  # the text is read at its first occurrence; None: at the highest token id (OpenAI)
    mlp_dim: int = 0  # hidden width of the MLPs; 0: 4 * width

    def __post_init__(self) -> None:
        if not self.mlp_dim:
            object.__setattr__(self, "mlp_dim", 4 * self.width)


class ClipText(nn.Module):
    """The text tower. The blocks are scanned; their parameters are stacked [num_layers, ...]."""

    config: TextConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Token numbers int32 [K, context] -> text embeddings float32 [K, E], not normalised."""
        c = self.config
        embedding = self.param("token_embedding", TOKEN_INIT, (c.vocab_size, c.width))
        positions = self.param("positions", TOKEN_INIT, (c.context_length, c.width))
        length = tokens.shape[1]
        x = (jnp.take(embedding, tokens, axis=0) + positions[None, :length]).astype(self.dtype)  # [K, context, width]
        block = Block(c.num_heads, c.mlp_dim, ACTIVATIONS[c.activation], causal=True, dtype=self.dtype, name="blocks")
        scan = nn.scan(
            lambda block, x, _: (block(x), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=c.num_layers,
        )
        x, _ = scan(block, x, None)
        x = LayerNorm(self.dtype, name="ln_final")(x)
        at_end = tokens if c.end_token is None else tokens == c.end_token
        end = jnp.argmax(at_end, axis=1)  # [K]
        x = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]  # [K, width]
        proj = self.param("proj", nn.initializers.normal(c.width**-0.5), (c.width, c.embed_dim))
        return jnp.dot(x, proj.astype(self.dtype)).astype(jnp.float32)
