"""Quantised linear layers of a frozen tower: int8 or fp8 weights and activations, with Qwix.

Weights are quantised once, with one scale per output channel. Activations are quantised in every product, with one
scale per token. Products run in the quantised type, so on a matrix unit for it where a chip has one. Qwix's own
interception of Flax modules does not fit here: our attention reshapes its kernels before the product.
"""

import math
from types import ModuleType
from typing import TYPE_CHECKING

import flax.linen as nn
import jax
import jax.numpy as jnp

from dist_jax.errors import UserError

if TYPE_CHECKING:
    from qwix import QArray

# Value of config.backbone.quantize -> type of the quantised values. Their scales are float32.
QUANTIZED_DTYPES = {"int8": jnp.int8, "fp8": jnp.float8_e4m3fn}


class QuantizedLinear(nn.Module):
    """A linear layer with a quantised kernel. It has the parameters of a float layer, but the kernel is a `QArray`.

    Attributes:
        kernel_shape: [*inputs, *outputs].
        num_input_axes: number of axes in *inputs.
        quantize: key of QUANTIZED_DTYPES.
        kernel_init: of the float kernel.
        dtype: of the result.
    """

    kernel_shape: tuple[int, ...]
    num_input_axes: int
    quantize: str
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., inputs] -> [..., outputs] in `dtype`; several axes of the kernel count as one."""
        inputs, outputs = self.kernel_shape[: self.num_input_axes], self.kernel_shape[self.num_input_axes :]
        kernel = self.param("kernel", self._init_kernel)
        bias = self.param("bias", nn.initializers.zeros_init(), outputs).astype(jnp.float32)
        kernel = kernel.reshape(math.prod(inputs), math.prod(outputs))
        y = quantized_dot(x, kernel, self.quantize)  # float32
        return (y + bias.reshape((1,) * (y.ndim - 1) + (-1,))).astype(self.dtype)

    def _init_kernel(self, key: jax.Array) -> "QArray":
        kernel = self.kernel_init(key, self.kernel_shape, jnp.float32)
        return quantize_kernel(kernel, self.quantize, tuple(range(self.num_input_axes)))


def quantize_kernel(kernel: jax.Array, quantize: str, input_axes: tuple[int, ...]) -> "QArray":
    """Quantises a kernel, with one scale for each index of all axes except `input_axes`.

    Args:
        kernel: any float dtype and shape.
        quantize: key of QUANTIZED_DTYPES.
        input_axes: the axes that the product sums over.

    Returns:
        The values, of the shape of the kernel, and the scales, float32, with length 1 in `input_axes`.

    Raises:
        UserError: Qwix is not installed.
    """
    scaled = [axis for axis in range(kernel.ndim) if axis not in input_axes]
    return import_qwix().quantize(kernel.astype(jnp.float32), QUANTIZED_DTYPES[quantize], channelwise_axes=scaled)


def quantized_dot(x: jax.Array, kernel: "QArray", quantize: str) -> jax.Array:
    """Float x [..., inputs] times a quantised kernel [inputs, outputs] -> float32 [..., outputs].

    Each row of x is quantised with its own scale. int8 products are summed exactly, fp8 products in float32.
    """
    rows = quantize_kernel(x, quantize, input_axes=(x.ndim - 1,))
    with jax.numpy_dtype_promotion("standard"):  # Qwix multiplies int32 sums by float32 scales
        # One pass is exact for these types. The default in float32 models asks for more.
        return import_qwix().dot(rows, kernel, precision=jax.lax.Precision.DEFAULT)


def check_quantize(name: str, quantize: str) -> None:
    """Raises UserError if `quantize`, the value of the argument `name`, is neither empty nor in QUANTIZED_DTYPES."""
    if quantize and quantize not in QUANTIZED_DTYPES:
        raise UserError(f"{name}={quantize!r}: must be one of {', '.join(map(repr, QUANTIZED_DTYPES))}, or empty")


def import_qwix() -> ModuleType:
    """The package qwix. Raises UserError if it is not installed."""
    try:
        import qwix
    except ImportError as error:
        raise UserError(
            "backbone.quantize needs Qwix, which is not installed; pip install 'qwix>=0.1.8,<0.2'"
        ) from error
    return qwix
