"""The devices of TPU slices for compilation ahead of time. No TPU is needed: libtpu contains the compiler."""

import importlib.util
import os
from collections.abc import Sequence

import jax
from jax.errors import JaxRuntimeError
from jax.experimental import topologies

from dist_jax.cost.chips import TpuSlice
from dist_jax.errors import UserError, first_line

# Without these settings libtpu asks a metadata server for the TPUs of this machine, locks them, and logs that it found
# none.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


def devices(tpu_slice: TpuSlice) -> Sequence[jax.Device]:
    """Devices of a slice, one per chip. They can be compiled for, but hold no arrays.

    Must be called before JAX starts its backends.

    Raises:
        UserError: libtpu is not installed or does not accept the topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f'the TPU compiler is not installed; run pip install "jax[tpu]=={jax.__version__}"')
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    options: dict[str, object] = {}
    if tpu_slice.chip.has_two_cores:
        options["chip_config_name"] = "megacore"
    if tpu_slice.num_chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)  # libtpu's default is four chips
    name = f"{tpu_slice.chip.name}:{tpu_slice.topology}"
    try:
        return topologies.get_topology_desc(topology_name=name, platform="tpu", **options).devices
    except JaxRuntimeError as error:
        raise UserError(f"--topology={name}: libtpu does not accept it ({first_line(error)})") from error
