"""Building blocks of CLIP and the DiST network: activations, LayerNorm, attention, MLP, the pre-LN block."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import flax.linen as nn
import jax
import jax.numpy as jnp

Activation = Callable[[jax.Array], jax.Array]

# Normal with standard deviation 0.02. The released code truncates it at +-2. This is 100 standard deviations and has no
# effect.
TOKEN_INIT = nn.initializers.normal(0.02)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x * sigmoid(1.702 x), CLIP's approximation of GELU; any shape, dtype kept."""
    return x * nn.sigmoid(1.702 * x)


def exact_gelu(x: jax.Array) -> jax.Array:
    """x * Phi(x) with the error function; any shape, dtype kept."""
    return nn.gelu(x, approximate=False)


# Name in CLIP configs -> function.
ACTIVATIONS: dict[str, Activation] = {"quick_gelu": quick_gelu, "gelu": exact_gelu}


class LayerNorm(nn.Module):
    """LayerNorm over the last axis: eps 1e-5, computed in float32, returned in `dtype`."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., width] of any float dtype -> [..., width] in `dtype`."""
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones_init(), width)
        bias = self.param("bias", nn.initializers.zeros_init(), width)
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-5)
        as_rows = (1,) * (x.ndim - 1) + width
        x = x * scale.astype(jnp.float32).reshape(as_rows) + bias.astype(jnp.float32).reshape(as_rows)
        return x.astype(self.dtype)


class Linear(nn.Dense):
    """A linear layer with DiST's initialisation: normal 0.02 (see TOKEN_INIT), bias 0."""

    kernel_init: nn.initializers.Initializer = TOKEN_INIT


class Mlp(nn.Module):
    """Linear, activation, linear, back to the input's width."""

    hidden_dim: int
    activation: Activation = quick_gelu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., width] -> [..., width] in `dtype`."""
        hidden = Linear(self.hidden_dim, dtype=self.dtype, name="fc")(x)  # [..., hidden]
        return Linear(x.shape[-1], dtype=self.dtype, name="proj")(self.activation(hidden))


class Attention(nn.Module):
    """Multi-head attention with one linear layer for query, key and value each; softmax in float32.

    The initialisation is that of torch's MultiheadAttention: Xavier uniform over the joint [3 * width, width] matrix.
    """

    num_heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, query: jax.Array, context: jax.Array, causal: bool = False) -> jax.Array:
        """Query [F, I, width] attends to context [F, J, width] -> [F, I, width] in `dtype`."""
        width = query.shape[-1]
        q, k, v = (
            nn.DenseGeneral(
                (self.num_heads, width // self.num_heads), dtype=self.dtype, kernel_init=_joint_xavier, name=name
            )(x)  # [F, I or J, heads, width / heads]
            for name, x in (("query", query), ("key", context), ("value", context))
        )
        q = q * (width // self.num_heads) ** -0.5
        scores = jnp.einsum("fqhd,fkhd->fhqk", q, k, preferred_element_type=jnp.float32)  # [F, heads, I, J]
        if causal:
            visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))  # [I, J]
            scores = jnp.where(visible[None, None], scores, -jnp.inf)
        weights = nn.softmax(scores).astype(self.dtype)
        mixed = jnp.einsum("fhqk,fkhd->fqhd", weights, v)  # [F, I, heads, width / heads]
        return nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, kernel_init=TOKEN_INIT, name="out")(mixed)


def _joint_xavier(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Xavier uniform with the fans of torch's [3 * width, width] in-projection: bound sqrt(6 / (4 width))."""
    bound = (6.0 / (4.0 * shape[0])) ** 0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Block(nn.Module):
    """A pre-LN transformer block of CLIP: x + attention(LN x), then + MLP(LN x)."""

    num_heads: int
    mlp_dim: int  # hidden width of the MLP
    activation: Activation
    causal: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[F, tokens, width] -> the same shape, in `dtype`."""
        y = LayerNorm(self.dtype, name="ln_1")(x)
        x = x + Attention(self.num_heads, self.dtype, name="attention")(y, y, self.causal)
        y = LayerNorm(self.dtype, name="ln_2")(x)
        return x + Mlp(self.mlp_dim, self.activation, self.dtype, name="mlp")(y)


def matmul_precision(dtype: jnp.dtype) -> AbstractContextManager:
    """Context manager: full precision of float32 matrix products. Accelerators use fewer bits by default."""
    return jax.default_matmul_precision("highest" if dtype == jnp.float32 else "default")


def unit(x: jax.Array) -> jax.Array:
    """[..., E] of any float dtype -> float32 [..., E], unit length."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))


def similarity_logits(embedding: jax.Array, text_features: jax.Array, logit_scale: jax.Array) -> jax.Array:
    """Embeddings [..., E], text features [K, E], CLIP's log scale [] -> exp(scale) * cosine, float32 [..., K]."""
    cosine = jnp.einsum("...e,ke->...k", unit(embedding), unit(text_features), precision=jax.lax.Precision.HIGHEST)
    return jnp.exp(logit_scale.astype(jnp.float32)) * cosine
