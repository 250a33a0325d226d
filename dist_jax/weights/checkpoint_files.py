"""Tensors of safetensors, PyTorch and Flax files, read one by one when they are asked for; no file runs code."""

import dataclasses
import json
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import ml_dtypes
import msgpack
import numpy as np
from flax import serialization, traverse_util
from safetensors import SafetensorError, safe_open

from dist_jax.errors import UserError

if TYPE_CHECKING:
    import torch

_STATE_DICT_KEYS = ("model_state", "state_dict")  # where checkpoints of DiST and of open_clip keep the tensors
_PICKLE = b"\x80"  # the first byte of what PyTorch saved before its files were zip archives
_DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16, "I64": "i8", "I32": "i4", "I16": "i2"}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a file: its shape is known, its values are read by `read` (or `np.asarray`), every time anew."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """The values, in the file's dtype unless another is asked for."""
        return np.asarray(self.read(), dtype)


def open_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file: .safetensors, .msgpack (Flax), otherwise a PyTorch checkpoint or TorchScript archive."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    readers = {".safetensors": _open_safetensors, ".msgpack": _open_flax}
    return readers.get(path.suffix, _open_torch)(path)


def open_sharded(index: Path) -> dict[str, Tensor]:
    """The tensors of the files that a Hugging Face index (`*.index.json`) names."""
    try:
        weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError) as error:
        raise UserError(f"{index}: not an index of sharded weights ({error})") from error
    shards = {file: open_tensors(index.parent / Path(file).name) for file in sorted(set(weight_map.values()))}
    absent = [f"{name} in {file}" for name, file in weight_map.items() if name not in shards[file]]
    unlisted = [f"{name} of {file}" for file in shards for name in shards[file] if weight_map.get(name) != file]
    if absent or unlisted:
        raise UserError(f"{index}: the index and its files differ; not found: {absent}; not in the index: {unlisted}")
    return {name: shards[file][name] for name, file in weight_map.items()}


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        file = safe_open(path, framework="numpy")  # memory-mapped: nothing is read yet
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: truncated or not a safetensors file ({error}); download it again") from error
    tensors = {}
    for name in file.keys():  # noqa: SIM118 (not a dict)
        header = file.get_slice(name)
        if header.get_dtype() not in _DTYPES:
            raise UserError(f"{path}: tensor {name} has dtype {header.get_dtype()}, not one of {', '.join(_DTYPES)}")
        read = _SafetensorsRead(file, name)
        tensors[name] = Tensor(tuple(header.get_shape()), np.dtype(_DTYPES[header.get_dtype()]), read)
    return tensors


@dataclasses.dataclass(frozen=True)
class _SafetensorsRead:
    file: safe_open
    name: str

    def __call__(self) -> np.ndarray:
        return self.file.get_tensor(self.name)


# What torch calls a Flax layer's parameters, and the axes of theirs in the order of torch's.
_TORCH_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_TORCH_AXES = {("kernel", 2): (1, 0), ("kernel", 4): (3, 2, 0, 1)}


def _open_flax(path: Path) -> dict[str, Tensor]:
    """A Flax model of Hugging Face by the names and in the layout of its PyTorch twin. The file is read at once."""
    try:
        tree = serialization.msgpack_restore(path.read_bytes())
    except (ValueError, msgpack.UnpackException) as error:
        raise UserError(f"{path}: truncated or not a Flax file ({error}); download it again") from error
    tensors = {}
    for names, value in traverse_util.flatten_dict(tree).items():
        *layer, last = names
        value = value.transpose(_TORCH_AXES.get((last, value.ndim), range(value.ndim)))
        name = ".".join([*layer, _TORCH_NAMES.get(last, last)])
        tensors[name] = Tensor(value.shape, value.dtype, value.view)
    return tensors


def _open_torch(path: Path) -> dict[str, Tensor]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: a PyTorch file is read with PyTorch, which is not installed: pip install torch "
            "(its CPU build is enough), or give the weights as safetensors"
        ) from error
    archive = zipfile.is_zipfile(path)
    with path.open("rb") as file:
        beginning = file.read(len(_PICKLE))
    if not archive and beginning != _PICKLE:  # a pointer of git-lfs, a page of HTML, half a download
        raise UserError(f"{path}: truncated or not a PyTorch file (it begins with {beginning!r}); download it again")
    try:
        if archive and _is_torchscript(path):
            found = _load_torchscript(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, as it holds more than tensors, so that opening it could run code "
            f"({_cause(error)}); save its state dict alone"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: truncated or not a PyTorch file ({_cause(error)})") from error
    return {name: _torch_tensor(value) for name, value in _state_dict(found, path).items()}


def _cause(error: Exception) -> str:
    """The sentence that says what is wrong; PyTorch's advice around it (to read the file all the same) is left out."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    cause = next((line for line in lines if "GLOBAL" in line or "WeightsUnpickler error" in line), lines[0])
    return cause.removeprefix("WeightsUnpickler error: ").split(". ")[0].rstrip(".")


def _state_dict(found: object, path: Path) -> dict:
    """The {name: tensor} in what a PyTorch file holds, which may stand beside epoch, optimizer and the like."""
    import torch

    for key in _STATE_DICT_KEYS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping):
        raise UserError(f"{path}: holds a {type(found).__name__}, not named tensors")
    others = [str(name) for name, value in found.items() if not isinstance(value, torch.Tensor)]
    if others or not found:
        raise UserError(
            f"{path}: no state dict: neither {' nor '.join(_STATE_DICT_KEYS)} is there, and these are no tensors: "
            f"{', '.join(others) or '(the file is empty)'}"
        )
    return dict(found)


def _torch_tensor(value: object) -> Tensor:
    import torch

    def read() -> np.ndarray:
        tensor = value.detach().contiguous()
        if tensor.dtype == torch.bfloat16:  # which NumPy lacks
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    bfloat16 = value.dtype == torch.bfloat16
    dtype = ml_dtypes.bfloat16 if bfloat16 else torch.empty(0, dtype=value.dtype).numpy().dtype
    return Tensor(tuple(value.shape), np.dtype(dtype), read)


def to_torch(array: np.ndarray) -> "torch.Tensor":
    """A copy as a torch tensor of the same dtype, bfloat16 as well."""
    import torch

    array = np.array(array)  # what is read from a file may be read-only memory, which torch warns of
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _load_torchscript(path: Path) -> dict:
    """The tensors of a TorchScript archive (as OpenAI publishes CLIP), by dotted names.

    torch.jit.load would run code of the archive: `__setstate__` and default arguments. But an archive is a checkpoint
    whose objects are of classes that the archive defines, so a copy of its data without its code is read here as every
    other checkpoint, with weights_only, those classes standing for bare attributes.
    """
    import torch

    with tempfile.TemporaryFile() as copy:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as data:
            for name in archive.namelist():
                inside = name.partition("/")[2]
                if inside in ("data.pkl", "version", "byteorder") or inside.startswith("data/"):
                    with archive.open(name) as source, data.open(name, "w", force_zip64=True) as target:
                        shutil.copyfileobj(source, target, 1 << 20)
        copy.seek(0)
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(copy)
        copy.seek(0)
        allowed = [(type("Attributes", (), {}), name) for name in classes if name.startswith("__torch__.")]
        allowed += [(_first_argument, name) for name in classes if name in _CONTAINER_TYPES]
        with torch.serialization.safe_globals(allowed):
            try:
                module = torch.load(copy, map_location="cpu", weights_only=True)
            except TypeError as error:
                raise pickle.UnpicklingError("its modules are set up by code of the archive") from error
    return dict(_module_tensors(module, ""))


# Functions that an archive calls to say what is in a list or dictionary, which they return.
_CONTAINER_TYPES = {
    f"torch.jit._pickle.{name}"
    for name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
}


def _first_argument(value: object, _: str = "") -> object:
    return value


def _module_tensors(module: object, prefix: str) -> list[tuple[str, object]]:
    import torch

    found = []
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            found.append((prefix + name, value))
        elif type(value).__name__ == "Attributes":
            found += _module_tensors(value, f"{prefix}{name}.")
    return found
