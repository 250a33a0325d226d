"""Declarative weight tables: external tensor name -> our parameter path and transform.

A table describes a format in both directions. A file must hold exactly the names of the table, with the shapes that our
parameters imply. `check` lists all mismatches in one error.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import jax
import numpy as np

from dist_jax.errors import UserError
from dist_jax.typing import PyTree

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]  # of parameters, by path
Place = Callable[[str, np.ndarray], PyTree]  # (path, value) -> the value on its device; a tree if it is quantised


def keep(_: str, value: np.ndarray) -> np.ndarray:
    """The `Place` that keeps parameters as NumPy arrays."""
    return value


@dataclasses.dataclass(frozen=True)
class Transform:
    """Conversion of one external tensor to our parameter and back."""

    to_ours: Callable[[np.ndarray, Shape], np.ndarray]  # (external tensor, shape of our parameter)
    to_theirs: Callable[[np.ndarray], np.ndarray]


def axes(*order: int, ones: tuple[int, ...] = ()) -> Transform:
    """A transposition: axis i of our parameter is axis `order[i]` of the external tensor.

    The external tensor also has axes of length 1, listed in `ones`.
    """
    all_axes = (*order, *ones)
    last_axes = tuple(range(len(order), len(all_axes)))

    def to_ours(theirs: np.ndarray, _: Shape) -> np.ndarray:
        return theirs.transpose(all_axes).squeeze(last_axes)

    def to_theirs(ours: np.ndarray) -> np.ndarray:
        return ours.reshape(*ours.shape, *(1 for _ in ones)).transpose(np.argsort(all_axes))

    return Transform(to_ours, to_theirs)


SAME = Transform(lambda theirs, _: theirs, lambda ours: ours)
LINEAR = axes(1, 0)  # [out, in] -> [in, out]
# Attention: [width, width] or [width] in PyTorch; Flax has a separate axis for the heads.
INTO_HEADS = Transform(lambda theirs, shape: theirs.T.reshape(shape), lambda ours: ours.reshape(len(ours), -1).T)
FROM_HEADS = Transform(lambda theirs, shape: theirs.T.reshape(shape), lambda ours: ours.reshape(-1, ours.shape[-1]).T)
HEADS_BIAS = Transform(lambda theirs, shape: theirs.reshape(shape), lambda ours: ours.reshape(-1))


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of a table.

    If `name` contains {}, it is the layer number: an index into the first axis of our stacked parameter. With more
    than one path, the external tensor is our parameters concatenated along its first axis.
    """

    name: str  # of the external tensor
    paths: tuple[str, ...]  # of our parameters, joined by "/"
    transform: Transform = SAME

    def theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """The external tensor of one layer, from our parameters in the order of `paths`."""
        pieces = [self.transform.to_theirs(piece) for piece in ours]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Our parameters of one layer, in the order of `paths`."""
        pieces = np.split(theirs, len(self.paths)) if len(self.paths) > 1 else [theirs]
        return [self.transform.to_ours(piece, shape) for piece, shape in zip(pieces, shapes, strict=True)]


Table = tuple[Entry, ...]


def linear(name: str, path: str, transform: Transform = LINEAR) -> Table:
    """Rows of a layer with weight and bias."""
    return Entry(f"{name}.weight", (f"{path}/kernel",), transform), Entry(f"{name}.bias", (f"{path}/bias",))


def layer_norm(name: str, path: str) -> Table:
    """Rows of a LayerNorm."""
    return Entry(f"{name}.weight", (f"{path}/scale",)), Entry(f"{name}.bias", (f"{path}/bias",))


def joint_attention(name: str, path: str) -> Table:
    """Rows of PyTorch's MultiheadAttention: query, key and value projections are one [3 * width, width] matrix."""
    return _attention(f"{name}.in_proj_weight", f"{name}.in_proj_bias", f"{name}.out_proj", path)


def fused_attention(name: str, path: str) -> Table:
    """Rows of timm's attention, with a joint matrix as in `joint_attention`."""
    return _attention(f"{name}.qkv.weight", f"{name}.qkv.bias", f"{name}.proj", path)


def _attention(weight: str, bias: str, out: str, path: str) -> Table:
    parts = [f"{path}/{part}" for part in ("query", "key", "value")]
    return (
        Entry(weight, tuple(f"{part}/kernel" for part in parts), INTO_HEADS),
        Entry(bias, tuple(f"{part}/bias" for part in parts), HEADS_BIAS),
        *linear(out, f"{path}/out", FROM_HEADS),
    )


def only(table: Table, parts: Collection[str]) -> Table:
    """The rows whose paths start with one of `parts`, e.g. "vision" or "logit_scale"."""
    return tuple(entry for entry in table if entry.paths[0].partition("/")[0] in parts)


def flatten(tree: Mapping) -> dict:
    """{"a": {"b": leaf}} -> {"a/b": leaf}."""
    return {"/".join(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten(leaves: Mapping) -> dict:
    """{"a/b": leaf} -> {"a": {"b": leaf}}."""
    tree: dict = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def infer_size(shapes: Shapes, *axes_of_size: tuple[str, int]) -> int | None:
    """The most frequent length of the axes (name, axis); None if no such tensor exists.

    The most frequent value is used, so that `check` can report a single tensor of wrong shape by its name.
    """
    lengths = Counter(
        shapes[name][axis]
        for name, axis in axes_of_size
        if -len(shapes.get(name, ())) <= axis < len(shapes.get(name, ()))
    )
    return lengths.most_common(1)[0][0] if lengths else None


def names_and_shapes(table: Table, shapes: Shapes) -> dict[str, Shape]:
    """Every external name with its shape, for our parameters of the given shapes."""
    # Arrays of zeros that use no memory: all strides are 0.
    zeros = {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}
    return {name: tensor.shape for name, tensor in to_theirs(table, zeros)}


def check(table: Table, shapes: Shapes, file_shapes: Shapes, source: str, ignored: Sequence[str] = ()) -> None:
    """Compares a file with a table.

    Args:
        table: of the file's format.
        shapes: of our parameters, by path.
        file_shapes: of the tensors in the file, by external name.
        source: name of the file in the error message.
        ignored: external names that the file may hold in addition.

    Raises:
        UserError: lists all missing and unknown tensors and all tensors of wrong shape.
    """
    expected = names_and_shapes(table, shapes)
    problems = [f"{name} is missing" for name in expected if name not in file_shapes]
    problems += [f"{name} is unknown" for name in file_shapes if name not in expected and name not in ignored]
    problems += [
        f"{name} has shape {list(file_shapes[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in file_shapes and tuple(file_shapes[name]) != shape
    ]
    if problems:
        tensors = "1 tensor does" if len(problems) == 1 else f"{len(problems)} tensors do"
        raise UserError(f"{source}: {tensors} not match: {'; '.join(problems)}")


def to_ours(table: Table, read: Callable[[str], np.ndarray], shapes: Shapes) -> Iterator[tuple[str, np.ndarray]]:
    """Yields our parameters (path, value) in the dtype that `read(name)` returns.

    Only the tensors of one row of the table are in memory at a time. Call `check` first.
    """
    for entry in table:
        if "{}" not in entry.name:
            yield from zip(entry.paths, entry.ours(read(entry.name), [shapes[p] for p in entry.paths]), strict=True)
            continue
        stacked: list[np.ndarray] = []
        for layer in range(shapes[entry.paths[0]][0]):
            pieces = entry.ours(read(entry.name.format(layer)), [shapes[path][1:] for path in entry.paths])
            if layer == 0:
                stacked = [np.empty(shapes[p], x.dtype) for p, x in zip(entry.paths, pieces, strict=True)]
            for parameter, piece in zip(stacked, pieces, strict=True):
                if piece.dtype != parameter.dtype:
                    name = entry.name.format(layer)
                    raise UserError(f"{name} has dtype {piece.dtype}, but layer 0 has {parameter.dtype}")
                parameter[layer] = piece
        yield from zip(entry.paths, stacked, strict=True)


def to_theirs(table: Table, params: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the external tensors (name, value) of our flat parameters."""
    for entry in table:
        ours = [params[path] for path in entry.paths]
        if "{}" not in entry.name:
            yield entry.name, entry.theirs(ours)
            continue
        for layer in range(len(ours[0])):
            yield entry.name.format(layer), entry.theirs([parameter[layer] for parameter in ours])


def tree_to_theirs(table: Table, params: Mapping) -> dict[str, np.ndarray]:
    """The external tensors of the parts that our tree has, e.g. "vision", in the dtype of the parameters."""
    leaves = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    return dict(to_theirs(only(table, list(params)), leaves))


def place_under(prefix: str, place: Place, path: str, value: np.ndarray) -> PyTree:
    """`place` with the path "prefix/path"."""
    return place(f"{prefix}/{path}", value)
