"""Tests of the imports inside dist_jax: direction, cycles, and TensorFlow in the data packages only."""

import ast
import importlib
import pathlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

import dist_jax

ROOT = pathlib.Path(dist_jax.__file__).parent

# Packages and top-level modules, highest layer first. A module may import from its own layer and from lower layers.
LAYERS = (
    # commands
    {"main", "predict", "embed", "convert", "export", "serve", "plan", "show_clips", "compare", "epic"},
    {"model_card", "exporting"},
    {"__init__"},  # dist_jax.load
    {"cost", "serving"},
    {"build_records", "training", "inference"},
    {"evaluation"},
    {"experiment"},
    {"data"},
    {"video"},
    {"model_setup"},
    {"weights"},
    {"workdir", "text"},
    {"models"},
    {"distributed"},
    {"command_line"},
    {"config", "config_arguments", "files", "hub", "class_names", "compilation_cache"},
    {"errors", "typing"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
WEB_PACKAGES = ("fastapi", "gradio", "python_multipart", "starlette", "uvicorn")
WEB = {"serving.api", "serving.page", "serving.server", "serving.uploads"}  # modules that import them
# `files` imports TensorFlow for remote paths only, `saved_model` for the export to it only.
TENSORFLOW = {"data", "build_records", "files", "exporting.saved_model"}


def modules() -> dict[str, pathlib.Path]:
    """File of every module, by its dotted name without "dist_jax."."""
    files = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return files


MODULES = modules()


def imported_names(source: str) -> Iterator[str]:
    """All dotted names that a source file imports, also inside functions; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def project_imports(source: str) -> set[str]:
    """The modules of dist_jax that a source file imports."""
    imports = set()
    for name in imported_names(source):
        if name.split(".")[0] != "dist_jax":
            continue
        rest = name.removeprefix("dist_jax").lstrip(".")
        while rest and rest not in MODULES:
            rest = rest.rpartition(".")[0]
        imports.add(rest or "__init__")
    return imports


GRAPH = {name: project_imports(path.read_text()) - {name} for name, path in MODULES.items()}


def test_every_package_has_a_layer():
    assert {name.split(".")[0] for name in MODULES} == set(LEVEL)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_downwards(module):
    level = LEVEL[module.split(".")[0]]
    upwards = {name for name in GRAPH[module] if LEVEL[name.split(".")[0]] < level}
    assert not upwards, f"{module} imports {sorted(upwards)}"


def test_no_import_cycles():
    acyclic, rest = set(), dict(GRAPH)
    while rest:
        ready = {module for module, imports in rest.items() if imports <= acyclic}
        assert ready, f"import cycle among {sorted(rest)}"
        acyclic |= ready
        rest = {module: imports for module, imports in rest.items() if module not in ready}


def test_project_imports_finds_all_import_forms():
    lines = ("import dist_jax", "import dist_jax.main as m, os", "from dist_jax import training", "def f():")
    source = "\n".join([*lines, "    from dist_jax.data.records import find_shards"])
    assert project_imports(source) == {"__init__", "main", "training", "data.records"}


def test_only_the_data_packages_import_tensorflow():
    importers = {
        module
        for module, path in MODULES.items()
        if any(name.startswith("tensorflow") for name in imported_names(path.read_text()))
    }
    assert not {module for module in importers if not {module, module.split(".")[0]} & TENSORFLOW}


def test_only_the_web_modules_import_web_packages():
    importers = {
        module
        for module, path in MODULES.items()
        if any(name.split(".")[0] in WEB_PACKAGES for name in imported_names(path.read_text()))
    }
    assert importers == WEB


def test_prediction_and_export_start_without_tensorflow():
    code = "import sys, dist_jax.predict, dist_jax.export; dist_jax.load; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_module_imports():
    for module in pkgutil.walk_packages([str(ROOT)], "dist_jax."):
        if module.name.endswith(("dist_jax.main", "__main__")):  # they define flags or run a command
            continue
        if module.name.removeprefix("dist_jax.") not in WEB:  # tests/serving runs them
            importlib.import_module(module.name)
