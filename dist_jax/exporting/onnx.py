"""ONNX, with jax2onnx, which maps each JAX operation to ONNX operations.

model.onnx        the graph; every entry of metadata.json is an entry of its metadata_props, as JSON
model.onnx.data   its large parameters
"""

import importlib.metadata
import json
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax import export
from jax.extend.core import jaxpr_as_fun

from dist_jax.errors import UserError, first_line
from dist_jax.exporting.metadata import VIDEO
from dist_jax.exporting.platforms import for_platform
from dist_jax.exporting.program import ClipProgram

if TYPE_CHECKING:
    import onnx_ir

MODEL, PARAMS = "model.onnx", "model.onnx.data"
OPSET = 23
BATCH = "B"
TOLERANCE = 1e-3  # of the outputs of ONNX Runtime, to those of JAX


def versions() -> dict[str, object]:
    """The versions of the libraries and of the operations."""
    import jax2onnx  # noqa: F401
    import onnxruntime

    return {"jax2onnx": _jax2onnx_version(), "onnxruntime": onnxruntime.__version__, "opset": OPSET}


def write(program: ClipProgram, metadata: dict, directory: Path) -> None:
    """Writes the graph, and compares its outputs with JAX. See `formats`."""
    quantized = {value.dtype.name for value in program.params.values()} - {"float32"}
    if quantized:
        raise _refused(f"ONNX Runtime has no matrix products for its {'/'.join(sorted(quantized))} image tower")
    import onnx_ir

    model = _convert(program)
    model.metadata_props.update({name: json.dumps(value) for name, value in metadata.items()})
    onnx_ir.save(model, directory / MODEL, external_data=PARAMS)
    _check(program, directory / MODEL)


def _convert(program: ClipProgram) -> "onnx_ir.Model":
    """Converts a program. Raises UserError if jax2onnx has no ONNX operations for it."""
    import jax2onnx
    import onnx_ir
    from onnx_ir.passes import common

    shapes = program.output_shapes()
    # jax2onnx replaces functions of jax.numpy while it traces. In a rewritten function, it sees only operations.
    run = for_platform(partial(program.run, program.params), "cpu")
    traced = jaxpr_as_fun(jax.make_jaxpr(run)(program.clip))
    (batch,) = export.symbolic_shape(BATCH)
    video = jax.ShapeDtypeStruct((batch, *program.clip.shape), program.clip.dtype)
    for library in ("jax2onnx", "onnx_ir"):  # their warnings are about packages and shapes that this model has not
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        model = jax2onnx.to_onnx(
            lambda video: jax.lax.map(traced, video),
            [video],
            model_name="dist_jax",
            opset=OPSET,
            return_mode="ir",
            input_names=[VIDEO],
            output_names=sorted(shapes),
        )
    except Exception as error:  # it has no exception class of its own
        raise _refused(f"jax2onnx {_jax2onnx_version()}: {first_line(error)}") from error
    common.LiftSubgraphInitializersToMainGraphPass()(model)
    common.RemoveUnusedNodesPass()(model)
    for output in model.graph.outputs:
        output.shape = onnx_ir.Shape([BATCH, *shapes[output.name].shape])
    return model


def _check(program: ClipProgram, file: Path) -> None:
    """Raises UserError if ONNX Runtime cannot run the graph, or computes other values than JAX."""
    import onnxruntime

    clip = np.random.default_rng(0).integers(0, 256, program.clip.shape, dtype=np.uint8)
    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, {VIDEO: clip[None]}), strict=True))
    except Exception as error:  # its exceptions have no common class
        raise _refused(f"ONNX Runtime: {first_line(error)}") from error
    for name, expected in jax.jit(program.run)(program.params, clip).items():
        difference = float(np.max(np.abs(outputs[name][0] - expected)))
        if not difference <= TOLERANCE:  # also NaN
            raise _refused(f"{name} of ONNX Runtime and JAX differ by {difference:.2g}")


def _refused(reason: str) -> UserError:
    return UserError(f"this model cannot be exported to ONNX ({reason}); use --format stablehlo or --format savedmodel")


def _jax2onnx_version() -> str:
    return importlib.metadata.version("jax2onnx")
