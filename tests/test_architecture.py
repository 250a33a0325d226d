"""Imports go one way, and TensorFlow stays where the data is."""

import ast
import importlib
import pathlib
import pkgutil

import pytest

import dist_jax

ROOT = pathlib.Path(dist_jax.__file__).parent

# What a part may import of the project, besides itself and `errors`. The programs (python -m dist_jax.NAME) stand at
# the top: nothing imports them but each other where named.
ALLOWED = {
    "models": set(),
    "class_names": set(),
    "data": {"class_names"},
    "text": {"models", "hub"},
    "weights": {"models", "text", "hub", "checkpoint", "preprocess", "config", "sharding", "class_names"},
    "losses": set(),
    "metrics": set(),
    "memory": set(),
    "mixing": set(),
    "report": set(),
    "preprocess": set(),
    "optimizer": set(),
    "config": set(),
    "hub": set(),
    "sharding": set(),
    "steps": {"losses", "mixing", "models", "preprocess"},
    "checkpoint": {"steps"},
    "watch": {"data"},
    "experiment": {"checkpoint", "data", "models", "sharding", "text", "weights"},
}


def parts() -> list[tuple[str, pathlib.Path]]:
    files = [(path.stem if path.parent == ROOT else path.parent.name, path) for path in ROOT.rglob("*.py")]
    return sorted((part, path) for part, path in files if part in ALLOWED)


def project_imports(path: pathlib.Path) -> set[str]:
    """The parts of dist_jax that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "dist_jax":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dist_jax."):
            found.add(node.module.split(".")[1])
    return found


@pytest.mark.parametrize(("part", "path"), parts(), ids=lambda value: getattr(value, "name", value))
def test_imports_go_one_way(part, path):
    beyond = project_imports(path) - ALLOWED[part] - {part, "errors"}
    assert not beyond, f"{path.name} imports {sorted(beyond)}"


def test_tensorflow_is_imported_by_data_alone():
    importers = {
        path.relative_to(ROOT).parts[0]
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name.startswith("tensorflow") for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tensorflow"))
    }
    assert importers <= {"data", "build_records.py"}


def test_every_module_imports():
    for module in pkgutil.walk_packages([str(ROOT)], "dist_jax."):
        if module.name != "dist_jax.main":  # defines flags, once a process
            importlib.import_module(module.name)
