"""Imports go one way, and TensorFlow stays where the data is."""

import ast
import importlib
import pathlib
import pkgutil

import pytest

import dist_jax

ROOT = pathlib.Path(dist_jax.__file__).parent

# What a part may import of the project, besides itself and `errors`, lowest first: every folder and every module at the
# top is here.
ALLOWED = {
    "errors": set(),
    # Knows nothing of the rest.
    "class_names": set(),
    "config": set(),
    "hosts": set(),
    "hub": set(),
    "losses": set(),
    "memory": set(),
    "metrics": set(),
    "mixing": set(),
    "models": set(),
    "optimizer": set(),
    "preemption": set(),
    "preprocess": set(),
    "report": set(),
    "run": set(),
    "sharding": set(),
    # Data, texts and weights.
    "data": {"class_names"},
    "text": {"hub", "models"},
    "weights": {"checkpoint", "class_names", "config", "hub", "models", "preprocess", "run", "text"},
    # The training step.
    "inputs": {"config", "losses", "mixing", "preprocess"},
    "steps": {"config", "inputs", "losses", "mixing", "models", "optimizer", "preprocess"},
    "checkpoint": {"steps"},
    # The loop.
    "watch": {"data"},
    "experiment": {"data", "models", "run", "sharding", "weights"},
    "evaluate": {"checkpoint", "data", "experiment", "metrics", "run", "sharding", "steps", "text", "weights"},
    "train": {"checkpoint", "config", "data", "evaluate", "experiment", "memory", "mixing", "optimizer", "preemption"}
    | {"report", "run", "sharding", "steps", "text", "watch", "weights"},
    "find_batch": {"experiment", "memory", "optimizer", "sharding", "steps", "train"},
    # The programs (python -m dist_jax.NAME) and the few lines of dist_jax.load().
    "command_line": {"config"},
    "main": {"command_line", "config", "evaluate", "find_batch", "hosts", "sharding", "train"},
    "build_records": {"data"},
    "convert": {"class_names", "text", "weights"},
    "predict": {"__init__", "class_names", "data", "weights"},
    "show_clips": {"command_line", "config", "data", "experiment", "inputs", "losses", "mixing", "models", "predict"}
    | {"preprocess", "sharding"},
    "predictor": {"models", "preprocess", "sharding", "text", "weights"},
    "__init__": {"predictor"},
}


def parts() -> list[tuple[str, pathlib.Path]]:
    return sorted((path.stem if path.parent == ROOT else path.parent.name, path) for path in ROOT.rglob("*.py"))


def project_imports(path: pathlib.Path) -> set[str]:
    """The parts of dist_jax that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "dist_jax":
            modules = [f"dist_jax.{alias.name}" for alias in node.names]
        else:
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found |= {f"{module}.__init__".split(".")[1] for module in modules if module.split(".")[0] == "dist_jax"}
    return found


def test_every_part_is_told_of_and_nothing_imports_relatively():
    assert {part for part, _ in parts()} == set(ALLOWED)
    nodes = (node for _, path in parts() for node in ast.walk(ast.parse(path.read_text())))
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes)


def test_no_two_parts_import_each_other():
    beneath, rest = set(), dict(ALLOWED)
    while rest:
        ready = {part for part, allowed in rest.items() if allowed <= beneath}
        assert ready, f"a circle among {sorted(rest)}"
        beneath |= ready
        rest = {part: allowed for part, allowed in rest.items() if part not in ready}


@pytest.mark.parametrize(("part", "path"), parts(), ids=lambda value: getattr(value, "name", value))
def test_imports_go_one_way(part, path):
    beyond = project_imports(path) - ALLOWED[part] - {part, "errors"}
    assert not beyond, f"{path.name} imports {sorted(beyond)}"


def test_an_import_of_any_kind_is_seen(tmp_path):
    file = tmp_path / "module.py"
    lines = ("import dist_jax", "import dist_jax.main as m, os", "from dist_jax import train", "def f():")
    file.write_text("\n".join([*lines, "    from dist_jax.data.files import x"]))
    assert project_imports(file) == {"__init__", "main", "train", "data"}


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
