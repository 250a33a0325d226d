"""StableHLO, with jax.export: one program for CPU, CUDA and TPU and any batch size.

model.jax_export     the program, from `jax.export.Exported.serialize`. Arguments: parameters by name, video
params.safetensors   the parameters. Inside the program, they would be limited to 2 GB and copied by every compiler
"""

from pathlib import Path

import jax
from jax import export

from dist_jax.errors import UserError
from dist_jax.exporting.program import ClipProgram
from dist_jax.weights.checkpoint_files import write_safetensors

PROGRAM, PARAMS = "model.jax_export", "params.safetensors"
_READABLE = {"float32", "bfloat16", "int8"}  # by safetensors.flax
PLATFORMS = ("cpu", "cuda", "tpu")


def versions() -> dict[str, object]:
    """The calling convention of the program: jax.export reads only some versions."""
    return {"calling_convention": jax.config.values["jax_export_calling_convention_version"]}


def write(program: ClipProgram, metadata: dict, directory: Path) -> None:
    """Writes both files. See `formats`. Raises UserError for parameters of a type that safetensors does not read."""
    unreadable = {value.dtype.name for value in program.params.values()} - _READABLE
    if unreadable:
        raise UserError(f"safetensors does not read {'/'.join(sorted(unreadable))} parameters; use --format savedmodel")
    (batch,) = export.symbolic_shape("B")
    video = jax.ShapeDtypeStruct((batch, *program.clip.shape), program.clip.dtype)
    params = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in program.params.items()}
    exported = export.export(jax.jit(program.run_batch), platforms=PLATFORMS)(params, video)
    (directory / PROGRAM).write_bytes(exported.serialize())
    write_safetensors(directory / PARAMS, program.params)
