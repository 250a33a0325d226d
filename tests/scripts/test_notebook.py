"""The Colab notebook."""

import json
import os
import subprocess
import sys

import pytest
from helpers.launchers import ROOT, write_command


def notebook():
    """The notebook, and the Python code of its cells: without lines for IPython (! and %)."""
    document = json.loads((ROOT / "examples/dist_jax_colab.ipynb").read_text())
    code = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    python = {cell["id"]: "".join(line for line in cell["source"] if not line.startswith(("!", "%"))) for cell in code}
    return document, python


def test_notebook_has_no_outputs_and_its_python_compiles():
    document, python = notebook()
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    assert python
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            compile(python[cell["id"]], cell["id"], "exec")
    ids = [cell["id"] for cell in document["cells"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("start", [".", "dist_jax/examples"])  # on Colab; in Jupyter, the notebook's folder
def test_notebook_finds_or_clones_the_project_once(tmp_path, start):
    project = tmp_path / "dist_jax"
    make = f"mkdir -p {project}/dist_jax {project}/examples && touch {project}/dist_jax/main.py"
    write_command(tmp_path, "git", f'echo "$*" >>{tmp_path}/calls\n{make}')
    if start != ".":
        subprocess.run(["bash", "-c", make], check=True)
    cell = notebook()[1]["install"]
    # A user may run the cell twice, and again after a restart of the session.
    twice = f"cell = {cell!r}\ninput = lambda question: 'https://example.com/project'\nexec(cell)\nexec(cell)\nprint(os.getcwd())"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for _ in range(2):
        result = subprocess.run(
            [sys.executable, "-c", twice], cwd=tmp_path / start, env=environment, capture_output=True, text=True
        )
        assert (result.returncode, result.stdout, result.stderr) == (0, f"{project}\n", "")
    clones = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
    expected = ["clone --quiet --depth=1 https://example.com/project dist_jax"] if start == "." else []
    assert clones == expected


def test_notebook_and_quickstart_state_the_same_duration():
    text = "".join(line for cell in notebook()[0]["cells"] for line in cell["source"])
    for document in (text, (ROOT / "scripts/quickstart.sh").read_text()):
        assert "about ten minutes on two CPU cores after the installation" in document
