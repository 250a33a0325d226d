"""Settings that make a training step fit into memory, found by compiling."""

from collections.abc import Callable, Iterator

import ml_collections

from dist_jax import config as settings
from dist_jax.errors import UserError
from dist_jax.training.memory import StepMemory

_FACTORS = (2, 4, 8)  # of accumulation and fsdp


def first_that_fits(
    config: ml_collections.ConfigDict,
    memory_of: Callable[[ml_collections.ConfigDict], StepMemory],
    limit: int,
    num_devices: int,
) -> tuple[str, StepMemory] | None:
    """Tries rematerialisation, then also accumulation, then also fsdp.

    Args:
        config: does not fit.
        memory_of: compiles the training step of a configuration; raises UserError if it does not
          fit or is not possible.
        limit: memory of a device, bytes.
        num_devices: devices of the mesh.

    Returns:
        The first combination that fits, as flags of the command line, and its memory; None if none fits.
    """
    for changes in _combinations(config, num_devices):
        changed = ml_collections.ConfigDict(config)
        changed.update_from_flattened_dict(changes)
        flags = " ".join(f"--config.{name}={value}" for name, value in changes.items())
        print(f"trying {flags}", flush=True)
        try:
            settings.validate(changed)
            step_memory = memory_of(changed)
        except UserError:
            continue  # it does not fit, or the batch cannot be split into so many parts
        if step_memory.total <= limit:
            return flags, step_memory
    return None


def _combinations(config: ml_collections.ConfigDict, num_devices: int) -> Iterator[dict[str, object]]:
    changes: dict[str, object] = {}
    if config.model.remat != "layers":
        changes["model.remat"] = "layers"
        yield changes
    for factor in _FACTORS:
        yield changes | {"grad_accum_steps": config.grad_accum_steps * factor}
    for fsdp in _FACTORS:
        if num_devices % fsdp == 0 and config.mesh.fsdp == 1:
            yield changes | {"mesh.data": -1, "mesh.fsdp": fsdp}
