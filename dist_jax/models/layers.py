"""Building blocks of CLIP and the DiST network: activations, LayerNorm, linear layers, MLP, logits."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dist_jax.models.quantization import QuantizedLinear

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


def tanh_gelu(x: jax.Array) -> jax.Array:
    """The approximation of GELU with tanh; any shape, dtype kept."""
    return nn.gelu(x, approximate=True)


# Name in the configs of Hugging Face -> function.
ACTIVATIONS: dict[str, Activation] = {
    "quick_gelu": quick_gelu,
    "gelu": exact_gelu,
    "gelu_pytorch_tanh": tanh_gelu,
}


def last_axis(array: jax.Array, like: jax.Array) -> jax.Array:
    """Adds leading axes of size 1 up to the rank of `like`: [width] -> [1, ..., 1, width]."""
    return array.reshape((1,) * (like.ndim - array.ndim) + array.shape)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def standardize(x: jax.Array, eps: float = 1e-5) -> jax.Array:
    """Zero mean and unit variance (plus `eps`) over the last axis: any float dtype -> float32, same shape.

    The backward pass reads x, the means and the scales; a rematerialised layer saves the last two ("moments").
    """
    return _standardize_forward(x, eps)[0]


def _standardize_forward(x: jax.Array, eps: float) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    mean = row_means(x)
    variance = jnp.maximum(row_means(jnp.square(x)) - jnp.square(mean), 0.0)
    mean = checkpoint_name(mean, "moments")
    scale = checkpoint_name(jax.lax.rsqrt(variance + eps), "moments")
    return (x.astype(jnp.float32) - mean) * scale, (x, mean, scale)


def _standardize_backward(
    eps: float, saved: tuple[jax.Array, jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array]:
    del eps  # it is in the saved scales
    x, mean, scale = saved
    normal = (x.astype(jnp.float32) - mean) * scale
    grad = grad - _mean(grad) - normal * _mean(grad * normal)
    return ((grad * scale).astype(x.dtype),)


standardize.defvjp(_standardize_forward, _standardize_backward)


def row_means(x: jax.Array) -> jax.Array:
    """Means over the last axis, summed in float32: any float dtype [..., width] -> float32 [..., 1]."""
    if x.dtype != jnp.bfloat16:
        return _mean(x)
    return jax.lax.platform_dependent(x, tpu=_mean_by_product, default=_mean)


def _mean(x: jax.Array) -> jax.Array:
    return jnp.mean(x.astype(jnp.float32), axis=-1, keepdims=True)


def _mean_by_product(x: jax.Array) -> jax.Array:
    # A TPU sums rows faster as a matrix product with ones than in its vector unit. All 128 columns of the result are
    # equal: one column would be a product with a vector, which XLA turns back into a sum.
    ones = jnp.ones((x.shape[-1], 128), x.dtype)
    return jnp.dot(x, ones, preferred_element_type=jnp.float32)[..., :1] / x.shape[-1]


class ScaleAndBias(nn.Module):
    """The parameters of a LayerNorm, and their use on standardised values."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, normal: jax.Array) -> jax.Array:
        """`standardize`d values float32 [..., width] -> [..., width] in `dtype`."""
        width = normal.shape[-1:]
        scale = self.param("scale", nn.initializers.ones_init(), width).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), width).astype(jnp.float32)
        return (normal * last_axis(scale, normal) + last_axis(bias, normal)).astype(self.dtype)


class LayerNorm(ScaleAndBias):
    """LayerNorm over the last axis: computed in float32, returned in `dtype`."""

    eps: float = 1e-5  # added to the variance

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., width] of any float dtype -> [..., width] in `dtype`."""
        return super().__call__(standardize(x, self.eps))


class LayerNormParameters(nn.Module):
    """The parameters of a LayerNorm, for code that applies them elsewhere."""

    width: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        """Scale and bias, float32 [width]."""
        scale = self.param("scale", nn.initializers.ones_init(), (self.width,))
        return scale, self.param("bias", nn.initializers.zeros_init(), (self.width,))


class Linear(nn.Dense):
    """A linear layer with DiST's initialisation: normal 0.02 (see TOKEN_INIT), bias 0."""

    kernel_init: nn.initializers.Initializer = TOKEN_INIT


class Mlp(nn.Module):
    """Linear, activation, linear, back to the input's width."""

    hidden_dim: int
    activation: Activation = quick_gelu
    dtype: jnp.dtype = jnp.float32
    quantize: str = ""  # see QuantizedLinear; empty: float layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., width] -> [..., width] in `dtype`."""
        hidden = self._linear(x, self.hidden_dim, "fc")  # [..., hidden]
        return self._linear(self.activation(hidden), x.shape[-1], "proj")

    def _linear(self, x: jax.Array, features: int, name: str) -> jax.Array:
        if self.quantize:
            shape = (x.shape[-1], features)
            return QuantizedLinear(shape, 1, self.quantize, TOKEN_INIT, self.dtype, name=name)(x)
        return Linear(features, dtype=self.dtype, name=name)(x)


class KernelAndBias(nn.Module):
    """The parameters of a linear layer, for code that does not use them as `x @ kernel + bias`."""

    kernel_shape: tuple[int, ...]
    bias_shape: tuple[int, ...]
    dtype: jnp.dtype
    kernel_init: nn.initializers.Initializer = TOKEN_INIT

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        """Kernel and bias in `dtype`."""
        kernel = self.param("kernel", self.kernel_init, self.kernel_shape)
        bias = self.param("bias", nn.initializers.zeros_init(), self.bias_shape)
        return kernel.astype(self.dtype), bias.astype(self.dtype)


def matmul_precision(dtype: jnp.dtype) -> AbstractContextManager:
    """Context manager: full precision of float32 matrix products. Accelerators use fewer bits by default."""
    return jax.default_matmul_precision("highest" if dtype == jnp.float32 else "default")


def unit(x: jax.Array) -> jax.Array:
    """[..., E] of any float dtype -> float32 [..., E], unit length."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))


def similarity_logits(embedding: jax.Array, text_features: jax.Array, logit_scale: jax.Array) -> jax.Array:
    """Embeddings [..., E], text features [K, E], log scale [] -> exp(scale) * cosine, float32 [..., K]."""
    cosine = jnp.einsum("...e,ke->...k", unit(embedding), unit(text_features), precision=jax.lax.Precision.HIGHEST)
    return jnp.exp(logit_scale.astype(jnp.float32)) * cosine
