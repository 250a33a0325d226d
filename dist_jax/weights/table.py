"""Declarative weight tables: their tensor name -> our parameter path and how the one becomes the other.

A table says everything about a format, in both directions: reading asks that every name of the table is there, in the
shape that our parameters imply, and that nothing else is; all mismatches are told at once.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from dist_jax.errors import UserError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]  # of parameters, by path
Place = Callable[[str, np.ndarray], jax.Array | np.ndarray]  # (path, value) -> the value where it shall lie


def keep(_: str, value: np.ndarray) -> np.ndarray:
    """The Place that leaves a parameter in NumPy's memory."""
    return value


@dataclasses.dataclass(frozen=True)
class Transform:
    """How one tensor of theirs becomes ours, and back."""

    to_ours: Callable[[np.ndarray, Shape], np.ndarray]  # (theirs, the shape that ours has)
    to_theirs: Callable[[np.ndarray], np.ndarray]


def axes(*order: int, ones: tuple[int, ...] = ()) -> Transform:
    """Our axes as numbers of theirs, which also has the axes `ones` of length 1."""
    every = (*order, *ones)

    def to_theirs(ours: np.ndarray) -> np.ndarray:
        return ours.reshape(*ours.shape, *(1 for _ in ones)).transpose(np.argsort(every))

    return Transform(lambda theirs, _: theirs.transpose(every).squeeze(tuple(range(len(order), len(every)))), to_theirs)


SAME = Transform(lambda theirs, _: theirs, lambda ours: ours)
LINEAR = axes(1, 0)  # [out, in] -> [in, out]
# Attention: what is [width, width] or [width] in torch has an axis of heads in Flax.
INTO_HEADS = Transform(lambda theirs, shape: theirs.T.reshape(shape), lambda ours: ours.reshape(len(ours), -1).T)
FROM_HEADS = Transform(lambda theirs, shape: theirs.T.reshape(shape), lambda ours: ours.reshape(-1, ours.shape[-1]).T)
HEADS_BIAS = Transform(lambda theirs, shape: theirs.reshape(shape), lambda ours: ours.reshape(-1))


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a table."""

    name: str  # theirs; {} stands for the number of a layer, which is a place on the first axis of ours
    paths: tuple[str, ...]  # ours, joined by "/"; more than one where they join ours along their first axis
    transform: Transform = SAME

    def theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Their tensor from one layer of ours, in the order of `paths`."""
        pieces = [self.transform.to_theirs(piece) for piece in ours]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """One layer of ours, in the order of `paths`."""
        pieces = np.split(theirs, len(self.paths)) if len(self.paths) > 1 else [theirs]
        return [self.transform.to_ours(piece, shape) for piece, shape in zip(pieces, shapes, strict=True)]


Table = tuple[Entry, ...]


def linear(name: str, path: str, transform: Transform = LINEAR) -> Table:
    """A layer with weight and bias."""
    return Entry(f"{name}.weight", (f"{path}/kernel",), transform), Entry(f"{name}.bias", (f"{path}/bias",))


def layer_norm(name: str, path: str) -> Table:
    """A LayerNorm."""
    return Entry(f"{name}.weight", (f"{path}/scale",)), Entry(f"{name}.bias", (f"{path}/bias",))


def joint_attention(name: str, path: str) -> Table:
    """torch's MultiheadAttention, whose query, key and value projections are one [3 * width, width] matrix."""
    return (
        Entry(
            f"{name}.in_proj_weight", tuple(f"{path}/{part}/kernel" for part in ("query", "key", "value")), INTO_HEADS
        ),
        Entry(f"{name}.in_proj_bias", tuple(f"{path}/{part}/bias" for part in ("query", "key", "value")), HEADS_BIAS),
        *linear(f"{name}.out_proj", f"{path}/out", FROM_HEADS),
    )


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


def size(found: Shapes, *places: tuple[str, int]) -> int | None:
    """What most tensors say that have this size on the named axis, so that one wrong tensor is found out as such."""
    said = Counter(
        found[name][axis] for name, axis in places if -len(found.get(name, ())) <= axis < len(found.get(name, ()))
    )
    return said.most_common(1)[0][0] if said else None


def names_and_shapes(table: Table, shapes: Shapes) -> dict[str, Shape]:
    """Every name of a format with its shape, for our parameters of the given shapes."""
    # Zeros without memory: all strides are 0.
    zeros = {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}
    return {name: tensor.shape for name, tensor in to_theirs(table, zeros)}


def check(table: Table, shapes: Shapes, found: Shapes, source: str, ignored: Sequence[str] = ()) -> None:
    """UserError that lists all missing, extra and misshapen tensors of `source`; `ignored` names may be there."""
    wanted = names_and_shapes(table, shapes)
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not known" for name in found if name not in wanted and name not in ignored]
    problems += [
        f"{name} has shape {list(found[name])} where {list(shape)} is needed"
        for name, shape in wanted.items()
        if name in found and tuple(found[name]) != shape
    ]
    if problems:
        raise UserError(f"{source}: {len(problems)} tensors do not fit: {'; '.join(problems)}")


def to_ours(table: Table, read: Callable[[str], np.ndarray], shapes: Shapes) -> Iterator[tuple[str, np.ndarray]]:
    """Our parameters (path, value), one after the other, in the dtype that `read(name)` returns.

    Holds the tensors of one line of the table at a time. The names and shapes are those that `check` has seen.
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
            for whole, piece in zip(stacked, pieces, strict=True):
                if piece.dtype != whole.dtype:
                    name = entry.name.format(layer)
                    raise UserError(f"{name} has dtype {piece.dtype} where layer 0 has {whole.dtype}")
                whole[layer] = piece
        yield from zip(entry.paths, stacked, strict=True)


def to_theirs(table: Table, params: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Their tensors (name, value), one after the other, from our flat parameters."""
    for entry in table:
        ours = [params[path] for path in entry.paths]
        if "{}" not in entry.name:
            yield entry.name, entry.theirs(ours)
            continue
        for layer in range(len(ours[0])):
            yield entry.name.format(layer), entry.theirs([whole[layer] for whole in ours])
