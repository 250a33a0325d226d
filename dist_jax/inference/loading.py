"""Loads a trained model, or a CLIP, as a `Predictor`: `dist_jax.load`."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dist_jax.distributed import sharding
from dist_jax.distributed.mesh import AXES, make_mesh
from dist_jax.errors import UserError
from dist_jax.files import user_path
from dist_jax.inference.predictor import Predictor
from dist_jax.models.quantization import check_quantize
from dist_jax.typing import PyTree
from dist_jax.weights import frozen, hub_models, plain_clip
from dist_jax.weights.model_directory import Model
from dist_jax.weights.model_files import is_trained, read_model, read_quantize
from dist_jax.weights.table import Place


def load(
    path: str | Path,
    dtype: jnp.dtype | None = None,
    mesh: Mesh | None = None,
    clip: str = "",
    quantize: str | None = None,
    label: str = "",
    num_frames: int | None = None,
) -> Predictor:
    """Loads a trained model, or a CLIP as a model without trained network.

    Args:
        path: a model directory (`python -m dist_jax.convert`) or its Hugging Face hub id, a training workdir or a
          published .pyth file. For plain CLIP: a hub id, a directory or a file, as config.backbone.weights. The
          config.json of a hub repository decides which of both it is.
        dtype: float32 (default; full precision on every device) or bfloat16 (faster on accelerators). Applies to the
          frozen image tower's parameters and to all computation on videos. Text embeddings are always computed in
          float32, and all results except `features` are float32.
        mesh: devices, from `distributed.mesh.make_mesh`; clips are split over the axes data and fsdp. Default: the
          first device.
        clip: CLIP weights to use instead of the path stored in the model; same values as config.backbone.weights.
        quantize: as config.backbone.quantize: "int8", "fp8", or "" for a float image tower. Default: as in the training
          of the model; a published file and a CLIP have a float tower.
        label: the label to predict, e.g. "verb". Required if the workdir has several labels.
        num_frames: T, frames per clip of plain CLIP; default 8. CLIP encodes all T frames. For a trained model, use
          `Predictor.for_frames`.

    Raises:
        UserError: no model at `path`, damaged files, or an unsupported argument.
    """
    dtype = jnp.dtype(jnp.float32 if dtype is None else dtype)
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise UserError(f"dtype={dtype}: must be float32 or bfloat16")
    if mesh is None:
        mesh = make_mesh(dict.fromkeys(AXES, 1), jax.local_devices()[:1])
    elif set(mesh.axis_names) != set(AXES):
        raise UserError(f"mesh has the axes {mesh.axis_names}; make it with dist_jax.distributed.mesh.make_mesh")
    path = hub_models.locate(user_path(str(path)))
    quantize = read_quantize(path) if quantize is None else quantize
    check_quantize("quantize", quantize)
    place = partial(_place, mesh, dtype, quantize)
    if is_trained(path) or not plain_clip.is_clip(path):
        if num_frames is not None:
            raise UserError(
                f"num_frames={num_frames} is for plain CLIP; use dist_jax.load(path).for_frames({num_frames})"
            )
        model = read_model(path, clip=clip, place=place, label=label)
    else:
        model = _read_clip(path, clip, label, plain_clip.NUM_FRAMES if num_frames is None else num_frames, place)
    return Predictor(dataclasses.replace(model, quantize=quantize), mesh, dtype)


def _read_clip(path: str | Path, clip: str, label: str, num_frames: int, place: Place) -> Model:
    if clip or label:
        raise UserError(f"{path} is a CLIP without trained network; remove clip={clip!r} and label={label!r}")
    if num_frames < 1:
        raise UserError(f"num_frames={num_frames}: must be at least 1")
    return plain_clip.read(path, num_frames, place)


def _place(mesh: Mesh, dtype: jnp.dtype, quantize: str, path: str, value: np.ndarray) -> PyTree:
    if path.startswith("clip/"):
        return frozen.place(mesh, dtype, quantize, path.removeprefix("clip/"), value)
    replicate = path == "text_features"
    array_sharding = sharding.replicated(mesh) if replicate else sharding.leaf_sharding(mesh, path, value.shape)
    return sharding.place(np.asarray(value).astype(np.float32), array_sharding)
