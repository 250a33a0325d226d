"""The table of input sources, and the two functions that the rest of the project calls.

A source is a module with two functions:

    open_source(data, split, class_names) -> Source    # data is config.data, split is "train" or "val"
    class_names(data) -> dict[str, list[str]]          # used when data.class_names_file is empty

Class names are by label name, in the order of data.label_key: {"label": [...]} or {"verb": [...], "noun": [...]}.
`docs/extending.md` shows how to add one.
"""

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType

import ml_collections

from dist_jax import class_names as names_file
from dist_jax import files
from dist_jax.data import subset
from dist_jax.data.source import Source, label_names, single_label
from dist_jax.errors import UserError

# Value of data.source -> module. A module is imported when it is used, because importing TFDS takes seconds.
SOURCES = {
    "records": "dist_jax.data.record_source",
    "tfds": "dist_jax.data.tfds_source",
    "videos": "dist_jax.data.video_source",
    "dmvr": "dist_jax.data.dmvr_source",
}


def open_source(data: ml_collections.ConfigDict, split: str, seed: int = 0) -> Source:
    """Opens the clips of data.train or data.val, all or those of data.classes_file and data.shots_per_class.

    Args:
        data: config.data.
        split: "train" or "val".
        seed: config.seed, for the draw of data.shots_per_class.

    Raises:
        UserError: missing, truncated or changed files, no clips, class names that conflict with the records, or too few
          records of a class.
    """
    if not data[split]:
        raise UserError(f"data.{split} is empty; set it to the {split} clips (data.source={data.source})")
    names = _all_class_names(data)
    listed = _listed_classes(data, names)
    source = _module(data).open_source(data, split, names)
    if listed is None and not (data.shots_per_class and split == "train"):
        return source
    return subset.select(source, data, split, seed, next(iter(names.values())), listed)


def class_names(data: ml_collections.ConfigDict) -> dict[str, list[str]]:
    """Returns the K class names of each label, by label name; the class number is the position in the list.

    They come from data.classes_file, or data.class_names_file, or else from the source.

    Raises:
        UserError: a missing file, another number of files than labels, an empty line, a duplicate name, or a name in
          data.classes_file that is not among the class names of the data.
    """
    names = _all_class_names(data)
    listed = _listed_classes(data, names)
    return names if listed is None else {data.label_key: listed}


def _all_class_names(data: ml_collections.ConfigDict) -> dict[str, list[str]]:
    """The class names of the data, also those that are not in data.classes_file."""
    if not data.class_names_file:
        return _module(data).class_names(data)
    labels, paths = label_names(data), _class_names_paths(data)
    if len(paths) != len(labels):
        raise UserError(
            f"data.class_names_file={data.class_names_file}: must be one file per label of data.label_key="
            f"{data.label_key}, separated by commas, but has {len(paths)}"
        )
    return {name: _read_names("data.class_names_file", path) for name, path in zip(labels, paths, strict=True)}


def _listed_classes(data: ml_collections.ConfigDict, names: Mapping[str, Sequence[str]]) -> list[str] | None:
    """The class names in data.classes_file, which are some of `names`; None without the setting."""
    if not data.classes_file:
        return None
    label = single_label(data, "data.classes_file")
    listed = _read_names("data.classes_file", data.classes_file)
    subset.check_listed(listed, names[label], data.classes_file)
    return listed


def _class_names_paths(data: ml_collections.ConfigDict) -> list[str]:
    """The comma-separated paths. For a single label, an existing file may have a comma in its name."""
    if len(label_names(data)) == 1 and files.exists(data.class_names_file):
        return [data.class_names_file]
    return [files.user_path(path.strip()) for path in data.class_names_file.split(",")]


def _read_names(field: str, path: str) -> list[str]:
    if not files.exists(path):
        raise UserError(f"{field}={path} does not exist; write one class name per line")
    return names_file.parse(files.read_text(path), path)


def _module(data: ml_collections.ConfigDict) -> ModuleType:
    if data.source not in SOURCES:
        raise UserError(f"data.source={data.source!r}: must be one of {', '.join(SOURCES)}")
    return importlib.import_module(SOURCES[data.source])
