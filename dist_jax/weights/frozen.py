"""The frozen parameters of a backbone on a mesh: cast, quantised and placed."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dist_jax.distributed import sharding
from dist_jax.models.quantization import import_qwix, quantize_kernel
from dist_jax.typing import PyTree

# Kernels that config.backbone.quantize applies to -> the axes that their products sum over; axis 0 is the block.
_INPUT_AXES = (
    (r"vision/blocks/attention/(query|key|value)/kernel", (1,)),
    (r"vision/blocks/attention/out/kernel", (1, 2)),
    (r"vision/blocks/mlp/(fc|proj)/kernel", (1,)),
)


def place(mesh: Mesh, dtype: jnp.dtype, quantize: str, path: str, value: np.ndarray) -> PyTree:
    """Casts or quantises a frozen parameter and places it on a mesh, by sharding.PARTITIONS.

    Args:
        mesh: of the devices.
        dtype: of the image tower. All other parameters become float32: the text tower runs only once.
        quantize: config.backbone.quantize, for the kernels in the blocks of the image tower.
        path: "vision/...", "text/..." or "logit_scale".
        value: any float dtype.

    Returns:
        An array, or a `QArray` for a quantised kernel.

    Raises:
        UserError: see `sharding.tree_shardings` and `quantization.import_qwix`.
    """
    target = abstract(mesh, dtype, quantize, path, value.shape)
    if isinstance(target, jax.ShapeDtypeStruct):
        return sharding.place(np.asarray(value).astype(target.dtype), target.sharding)
    # The devices quantise the float32 values. Only one parameter at a time is there in float32.
    array = sharding.place(np.asarray(value, np.float32), sharding.leaf_sharding(mesh, path, value.shape))
    convert = partial(quantize_kernel, quantize=quantize, input_axes=_input_axes(path))
    return jax.jit(convert, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, target))(array)


def abstract(mesh: Mesh, dtype: jnp.dtype, quantize: str, path: str, shape: tuple[int, ...]) -> PyTree:
    """Shapes, dtypes and shardings of the result of `place`, with the same arguments and errors."""
    input_axes = _input_axes(path)
    if not quantize or not input_axes:
        leaf_dtype = dtype if path.startswith("vision/") else jnp.float32
        return jax.ShapeDtypeStruct(shape, leaf_dtype, sharding=sharding.leaf_sharding(mesh, path, shape))

    def with_sharding(part: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        leaf_sharding = sharding.leaf_sharding(mesh, f"{path}/{sharding.path_name(part)}", leaf.shape)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf_sharding)

    import_qwix()  # its error is one line here; tracing adds lines
    convert = partial(quantize_kernel, quantize=quantize, input_axes=input_axes)
    quantized = jax.eval_shape(convert, jax.ShapeDtypeStruct(shape, jnp.float32))
    return jax.tree_util.tree_map_with_path(with_sharding, quantized)


def _input_axes(path: str) -> tuple[int, ...]:
    """The summed axes of a kernel that can be quantised; empty for any other parameter."""
    return next((axes for pattern, axes in _INPUT_AXES if re.fullmatch(pattern, path)), ())
