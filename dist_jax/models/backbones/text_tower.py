"""What the text towers share: their sizes, and pre-LN blocks on the tokens of a text."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from dist_jax.models.block import Block, run_stacked
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
    activation: str = "quick_gelu"  # key of ACTIVATIONS
    # CLIP reads a text at the first occurrence of this token; None: at the highest token id (OpenAI).
    end_token: int | None = None
    mlp_dim: int = 0  # hidden width of the MLPs; 0: 4 * width

    def __post_init__(self) -> None:
        if not self.mlp_dim:
            object.__setattr__(self, "mlp_dim", 4 * self.width)


class TextTower(nn.Module):
    """A text tower. The blocks are scanned; their parameters are stacked [num_layers, ...]."""

    config: TextConfig
    dtype: jnp.dtype = jnp.float32

    causal: ClassVar[bool] = True  # whether a token attends only to itself and earlier ones
    eps: ClassVar[float] = 1e-5  # of the LayerNorms

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Token numbers int32 [K, context] -> text embeddings float32 [K, E], not normalised."""
        c = self.config
        embedding = self.param("token_embedding", TOKEN_INIT, (c.vocab_size, c.width))
        positions = self.param("positions", TOKEN_INIT, (c.context_length, c.width))
        length = tokens.shape[1]
        x = (jnp.take(embedding, tokens, axis=0) + positions[None, :length]).astype(self.dtype)  # [K, context, width]
        block = Block(
            c.num_heads,
            c.mlp_dim,
            ACTIVATIONS[c.activation],
            causal=self.causal,
            dtype=self.dtype,
            eps=self.eps,
            name="blocks",
        )
        x = run_stacked(block, x, c.num_layers)
        x = LayerNorm(self.dtype, self.eps, name="ln_final")(x)
        return self.embed(x, tokens).astype(jnp.float32)

    def embed(self, x: jax.Array, tokens: jax.Array) -> jax.Array:
        """The stream after the last LayerNorm [K, context, width] and the token numbers -> embeddings [K, E]."""
        raise NotImplementedError
