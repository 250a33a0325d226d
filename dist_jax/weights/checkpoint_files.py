"""Reads tensors from safetensors, PyTorch and Flax files, one at a time. No file can run code. Writes safetensors."""

import dataclasses
import json
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import msgpack
import numpy as np
from flax import serialization, traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dist_jax.errors import UserError

if TYPE_CHECKING:
    import torch

_STATE_DICT_KEYS = ("model_state", "state_dict")  # of the tensors in checkpoints of DiST and open_clip
_PICKLE = b"\x80"  # first byte of PyTorch files in the format before zip archives
_DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16, "I64": "i8", "I32": "i4", "I16": "i2"}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a file. `read` (or `np.asarray`) reads its values from the file on each call."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Reads the values; `dtype` None: the dtype of the file."""
        return np.asarray(self.read(), dtype)


def open_tensors(path: Path) -> dict[str, Tensor]:
    """Opens one file: .safetensors, .msgpack (Flax), or else a PyTorch checkpoint or TorchScript archive.

    Raises:
        UserError: the file is missing, damaged or could run code, or PyTorch is needed and not installed.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    readers = {".safetensors": _open_safetensors, ".msgpack": _open_flax}
    return readers.get(path.suffix, _open_torch)(path)


def open_sharded(index: Path) -> dict[str, Tensor]:
    """Opens the files that a Hugging Face index (`*.index.json`) lists.

    Raises:
        UserError: the index is damaged, or it and its files list different tensors.
    """
    try:
        weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
        files = sorted({str(file) for file in weight_map.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: not an index of sharded weights ({error}); download it again") from error
    shards = {file: open_tensors(index.parent / Path(file).name) for file in files}
    missing = [f"{name} in {file}" for name, file in weight_map.items() if name not in shards[file]]
    unlisted = [f"{name} of {file}" for file in shards for name in shards[file] if weight_map.get(name) != file]
    if missing or unlisted:
        raise UserError(
            f"{index}: the index and its files differ; missing in the files: {missing}; missing in the index: "
            f"{unlisted}; download them again"
        )
    return {name: shards[file][name] for name, file in weight_map.items()}


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Writes contiguous tensors. The file has the permissions of other new files; safetensors allows only its owner."""
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata)
    path.chmod(mode)


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty if it has none or cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        file = safe_open(path, framework="numpy")  # memory-mapped; reads no values
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: truncated or not a safetensors file ({error}); download it again") from error
    tensors = {}
    for name in file.keys():  # noqa: SIM118 (safe_open is not a dict)
        header = file.get_slice(name)
        if header.get_dtype() not in _DTYPES:
            raise UserError(
                f"{path}: tensor {name} has dtype {header.get_dtype()}, must be one of {', '.join(_DTYPES)}"
            )
        read = _SafetensorsRead(file, name)
        tensors[name] = Tensor(tuple(header.get_shape()), np.dtype(_DTYPES[header.get_dtype()]), read)
    return tensors


@dataclasses.dataclass(frozen=True)
class _SafetensorsRead:
    file: safe_open
    name: str

    def __call__(self) -> np.ndarray:
        return self.file.get_tensor(self.name)


# Flax parameter name -> PyTorch name; (Flax name, number of axes) -> transposition to PyTorch.
_TORCH_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_TORCH_AXES = {("kernel", 2): (1, 0), ("kernel", 4): (3, 2, 0, 1)}


def _open_flax(path: Path) -> dict[str, Tensor]:
    """A Hugging Face Flax model with the names and axes of the PyTorch model. Reads the whole file."""
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
            f"{path}: reading this file needs PyTorch, which is not installed; pip install torch (the CPU build is "
            "enough) or use safetensors weights"
        ) from error
    archive = zipfile.is_zipfile(path)
    with path.open("rb") as file:
        first_bytes = file.read(len(_PICKLE))
    if not archive and first_bytes != _PICKLE:  # for example a git-lfs pointer, an HTML page, a partial download
        raise UserError(f"{path}: truncated or not a PyTorch file (first byte {first_bytes!r}); download it again")
    try:
        if archive and _is_torchscript(path):
            content = _load_torchscript(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused because opening it could run code: it contains objects that are not tensors "
            f"({_cause(error)}); save only the state dict"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: truncated or not a PyTorch file ({_cause(error)}); download it again") from error
    return {name: _torch_tensor(value) for name, value in _state_dict(content, path).items()}


def _cause(error: Exception) -> str:
    """The cause in a PyTorch error, without PyTorch's advice to load the file unsafely."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    cause = next((line for line in lines if "GLOBAL" in line or "WeightsUnpickler error" in line), lines[0])
    return cause.removeprefix("WeightsUnpickler error: ").split(". ")[0].rstrip(".")


def _state_dict(content: object, path: Path) -> dict:
    """The {name: tensor} of a PyTorch file; a checkpoint may also hold epoch, optimizer and other entries."""
    import torch

    for key in _STATE_DICT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: contains a {type(content).__name__}; expected a state dict")
    others = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others or not content:
        raise UserError(
            f"{path}: no state dict: it has no key {' or '.join(_STATE_DICT_KEYS)}, and these entries are not tensors: "
            f"{', '.join(others) or '(the file is empty)'}"
        )
    return dict(content)


def _torch_tensor(value: "torch.Tensor") -> Tensor:
    import torch

    def read() -> np.ndarray:
        tensor = value.detach().contiguous()
        if tensor.dtype == torch.bfloat16:  # NumPy has no bfloat16
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    bfloat16 = value.dtype == torch.bfloat16
    dtype = ml_dtypes.bfloat16 if bfloat16 else torch.empty(0, dtype=value.dtype).numpy().dtype
    return Tensor(tuple(value.shape), np.dtype(dtype), read)


def to_torch(array: np.ndarray) -> "torch.Tensor":
    """Copies an array to a PyTorch tensor of the same dtype, including bfloat16."""
    import torch

    array = np.array(array)  # a copy: PyTorch warns about read-only memory, e.g. of a memory-mapped file
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _load_torchscript(path: Path) -> dict:
    """The tensors of a TorchScript archive (OpenAI's format for CLIP), by dotted names.

    torch.jit.load would run code of the archive (`__setstate__`, default arguments). This function copies the data
    without the code and loads the copy with weights_only=True. Each class that the archive defines becomes a class that
    only stores attributes.
    """
    import torch

    with tempfile.TemporaryFile() as copy:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as data:
            for name in archive.namelist():
                member = name.partition("/")[2]
                if member in ("data.pkl", "version", "byteorder") or member.startswith("data/"):
                    with archive.open(name) as source, data.open(name, "w", force_zip64=True) as target:
                        shutil.copyfileobj(source, target, 1 << 20)
        copy.seek(0)
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(copy)
        copy.seek(0)
        allowed: list[tuple[Any, str]] = [
            (type("Attributes", (), {}), name) for name in classes if name.startswith("__torch__.")
        ]
        allowed += [(_first_argument, name) for name in classes if name in _CONTAINER_TYPES]
        with torch.serialization.safe_globals(allowed):
            try:
                module = torch.load(copy, map_location="cpu", weights_only=True)
            except TypeError as error:
                raise pickle.UnpicklingError("loading its modules runs code of the archive") from error
    return dict(_module_tensors(module, ""))


# Functions that set the element type of a list or dictionary and return it.
_CONTAINER_TYPES = {
    f"torch.jit._pickle.{name}"
    for name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
}


def _first_argument(value: object, _: str = "") -> object:
    return value


def _module_tensors(module: object, prefix: str) -> list[tuple[str, object]]:
    import torch

    tensors = []
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            tensors.append((prefix + name, value))
        elif type(value).__name__ == "Attributes":
            tensors += _module_tensors(value, f"{prefix}{name}.")
    return tensors
