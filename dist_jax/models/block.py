"""The pre-LN transformer block of the towers."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from dist_jax.models.attention import Attention
from dist_jax.models.layers import Activation, LayerNorm, Mlp


class Block(nn.Module):
    """A pre-LN transformer block: x + attention(LN x), then + MLP(LN x)."""

    num_heads: int
    mlp_dim: int  # hidden width of the MLP
    activation: Activation
    causal: bool = False
    dtype: jnp.dtype = jnp.float32
    quantize: str = ""  # of the linear layers, see QuantizedLinear; empty: float layers
    attention: Callable[..., Attention] = Attention
    eps: float = 1e-5  # of the LayerNorms

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., tokens, width] -> the same shape, in `dtype`."""
        y = LayerNorm(self.dtype, self.eps, name="ln_1")(x)
        x = x + self.attention(self.num_heads, self.dtype, self.quantize, name="attention")(y, y, self.causal)
        y = LayerNorm(self.dtype, self.eps, name="ln_2")(x)
        return x + Mlp(self.mlp_dim, self.activation, self.dtype, self.quantize, name="mlp")(y)


def run_stacked(block: Block, x: jax.Array, num_layers: int) -> jax.Array:
    """Applies `num_layers` blocks, whose parameters are stacked [num_layers, ...], to [..., tokens, width]."""
    scan = nn.scan(
        lambda block, x, _: (block(x), None),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=num_layers,
    )
    return scan(block, x, None)[0]
