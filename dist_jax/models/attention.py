"""Multi-head attention: with gradients and weights that can be read, and a faster form for frozen towers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dist_jax.distributed.sharding import over_clips_and_heads
from dist_jax.models import tpu_attention
from dist_jax.models.layers import TOKEN_INIT, KernelAndBias, last_axis
from dist_jax.models.quantization import QuantizedLinear
from dist_jax.models.rotary import Rotary


class Attention(nn.Module):
    """Multi-head attention with one linear layer for query, key and value each; softmax in float32.

    The initialisation is that of torch's MultiheadAttention: Xavier uniform over the joint [3 * width, width] matrix.
    """

    num_heads: int
    dtype: jnp.dtype = jnp.float32
    quantize: str = ""  # of the linear layers, see QuantizedLinear; empty: float layers

    @nn.compact
    def __call__(self, query: jax.Array, context: jax.Array, causal: bool = False) -> jax.Array:
        """Query [..., I, width] attends to context [..., J, width] -> [..., I, width] in `dtype`."""
        width = query.shape[-1]
        q = self._project(query, "query") * (width // self.num_heads) ** -0.5  # [..., I, width]
        k, v = self._project(context, "key"), self._project(context, "value")  # [..., J, width]
        mixed = self._attend(q, k, v, causal)  # [..., I, width]
        if self.quantize:
            shape = (self.num_heads, width // self.num_heads, width)
            return QuantizedLinear(shape, 2, self.quantize, TOKEN_INIT, self.dtype, name="out")(mixed)
        mixed = split_heads(mixed, self.num_heads)  # [..., I, heads, head_dim]
        return nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, kernel_init=TOKEN_INIT, name="out")(mixed)

    def _project(self, x: jax.Array, name: str) -> jax.Array:
        """[..., I, width] -> [..., I, width], head after head. The flat product avoids a transposed copy of x."""
        width = x.shape[-1]
        heads = (self.num_heads, width // self.num_heads)
        if self.quantize:
            kernel_shape = (width, *heads)
            flat = QuantizedLinear(kernel_shape, 1, self.quantize, joint_xavier, self.dtype, name=name)(x)
            return flat.reshape(x.shape)
        kernel, bias = KernelAndBias((width, *heads), heads, self.dtype, joint_xavier, name=name)()
        flat = jnp.dot(x.astype(self.dtype), kernel.reshape(width, width))  # [..., I, width]
        return flat + last_axis(bias.reshape(width), flat)

    def _attend(self, q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
        weights = attention_weights(q, k, self.num_heads, causal)
        self.sow("intermediates", "weights", weights)  # read by VideoModel.attention; no effect without `mutable`
        return weighted_values(weights, v)


class FrozenAttention(Attention):
    """`Attention` without gradients: a fused kernel on TPUs. The parameters are those of `Attention`.

    XLA cannot divide a kernel among devices. So the kernel needs their mesh: data and fsdp share the clips, tensor the
    heads. Without a mesh, XLA computes the attention.
    """

    mesh: Mesh | None = None
    rotary: Rotary | None = None  # of queries and keys

    def _attend(self, q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
        """[..., clips, I, width], see `Attention`."""
        head_dim = q.shape[-1] // self.num_heads

        def rotated(x: jax.Array) -> jax.Array:
            return x if self.rotary is None else self.rotary(x, head_dim)

        def dense(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return weighted_values(attention_weights(rotated(q), rotated(k), self.num_heads, causal), v)

        def kernel(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return tpu_attention.attend(q, k, v, head_dim, self.rotary)

        if causal or self.mesh is None:
            return dense(q, k, v)
        if not tpu_attention.supports(q, head_dim, self.mesh.shape["tensor"], rotates=self.rotary is not None):
            return dense(q, k, v)
        fused = over_clips_and_heads(kernel, self.mesh)
        return jax.lax.platform_dependent(q, k, v, tpu=fused, default=dense)


def attention_weights(q: jax.Array, k: jax.Array, num_heads: int, causal: bool = False) -> jax.Array:
    """Softmax of the scores of scaled queries [..., I, width] and keys [..., J, width]: float32 [..., heads, I, J]."""
    q, k = split_heads(q, num_heads).swapaxes(-2, -3), split_heads(k, num_heads).swapaxes(-2, -3)
    scores = jnp.einsum("...qd,...kd->...qk", q, k, preferred_element_type=jnp.float32)  # [..., heads, I, J]
    if causal:
        visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))  # [I, J]
        scores = jnp.where(jnp.broadcast_to(visible, scores.shape), scores, -jnp.inf)
    return nn.softmax(scores)


def weighted_values(weights: jax.Array, v: jax.Array) -> jax.Array:
    """Weights [..., heads, I, J] and values [..., J, width] -> [..., I, width] in the dtype of `v`."""
    v = split_heads(v, weights.shape[-3]).swapaxes(-2, -3)  # [..., heads, J, head_dim]
    mixed = jnp.einsum("...qk,...kd->...qd", weights.astype(v.dtype), v).swapaxes(-2, -3)  # [..., I, heads, head_dim]
    return mixed.reshape(*mixed.shape[:-2], -1)


def split_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """[..., width] -> [..., heads, head_dim]."""
    return x.reshape(*x.shape[:-1], num_heads, -1)


def joint_xavier(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Xavier uniform with the fans of torch's [3 * width, width] in-projection: bound sqrt(6 / (4 width))."""
    bound = (6.0 / (4.0 * shape[0])) ** 0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)
