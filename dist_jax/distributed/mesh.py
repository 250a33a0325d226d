"""The device mesh."""

import math
from collections.abc import Sequence

import jax
import ml_collections
from jax.sharding import AxisType, Mesh

from dist_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")


def make_mesh(shape: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh with the axes AXES over `devices` (default: all).

    Args:
        shape: config.mesh: size of each axis; -1 for the size that uses all remaining devices.
        devices: in mesh order.

    Raises:
        UserError: the product of the axes is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [shape[axis] for axis in AXES]
    fixed = math.prod(size for size in sizes if size != -1)
    sizes = [len(devices) // fixed if size == -1 else size for size in sizes]
    if math.prod(sizes) != len(devices):
        requested = ", ".join(f"mesh.{axis}={shape[axis]}" for axis in AXES)
        raise UserError(
            f"{requested} do not fill {len(devices)} device{'s' if len(devices) != 1 else ''}; choose sizes with this "
            "product, or set one axis to -1"
        )
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
