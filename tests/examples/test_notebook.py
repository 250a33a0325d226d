"""The Colab notebook: its file, and the cells that prepare the machine. test_notebook_runs.py runs all cells."""

import json
import os
import subprocess
import sys

import pytest
from helpers.launchers import ROOT, write_command

NOTEBOOK = json.loads((ROOT / "examples/dist_jax.ipynb").read_text())
CELLS = {cell["id"]: "".join(cell["source"]) for cell in NOTEBOOK["cells"]}
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def execute(cell, **variables):
    """Executes a cell in a new namespace with these variables, and returns the namespace."""
    namespace = {"os": os, "subprocess": subprocess, "sys": sys, **variables}
    exec(CELLS[cell], namespace)  # noqa: S102
    return namespace


def test_the_notebook_has_no_outputs_and_its_cells_are_python():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert len(CELLS) == len(NOTEBOOK["cells"])  # the ids differ
    for cell in CODE:
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        compile(CELLS[cell["id"]], cell["id"], "exec")  # no lines for IPython: !python may be another interpreter


@pytest.mark.parametrize("start", [".", "dist_jax/examples"])  # on Colab; in Jupyter, the notebook's folder
def test_the_project_is_found_or_cloned_once(tmp_path, start):
    project = tmp_path / "dist_jax"
    make = f"mkdir -p {project}/dist_jax {project}/examples && touch {project}/dist_jax/main.py"
    write_command(tmp_path, "git", f'echo "$*" >>{tmp_path}/calls\n{make}')
    if start != ".":
        subprocess.run(["bash", "-c", make], check=True)
    cell = f"import os\nREPOSITORY = ''\n{CELLS['project']}"
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


def test_environment_variables_replace_settings_and_keep_their_types(monkeypatch):
    defaults = execute("settings")
    assert (defaults["CLIP"], defaults["EPOCHS"]) == ("openai/clip-vit-base-patch16", 20)
    assert defaults["CHECKPOINT"].startswith("https://drive.google.com/")
    monkeypatch.setenv("DIST_JAX_EPOCHS", "2")
    monkeypatch.setenv("DIST_JAX_CLIP", "clip")
    changed = execute("settings")
    assert (changed["CLIP"], changed["EPOCHS"]) == ("clip", 2)
    assert changed["CHECKPOINT"] == defaults["CHECKPOINT"]


def test_commands_run_in_the_interpreter_of_the_notebook_and_a_failure_stops_it(monkeypatch, capsys):
    for name in ("TF_CPP_MIN_LOG_LEVEL", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.setenv(name, "")  # restored after the test: the cell sets it
    run = execute("run")["run"]
    run("-c", "import sys; print(sys.executable); print('warning', file=sys.stderr)")
    assert sorted(capsys.readouterr().out.splitlines()) == sorted([sys.executable, "warning"])
    with pytest.raises(subprocess.CalledProcessError) as error:
        run("-c", "raise SystemExit('error: no such file')")
    assert error.value.returncode == 1
    assert capsys.readouterr().out == "error: no such file\n"


@pytest.mark.parametrize(
    ("driver", "package"),
    [
        ("echo 580.65.06", "jax[cuda13]"),
        ("echo 550.54.15; echo 550.54.15", "jax[cuda12]"),  # two GPUs
        ("echo NVIDIA-SMI has failed; exit 9", "jax"),
        (None, "jax"),
    ],
)
def test_jax_is_installed_for_the_driver(tmp_path, monkeypatch, driver, package):
    if driver:
        write_command(tmp_path, "nvidia-smi", driver)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if driver else str(tmp_path))
    calls = []
    execute("install", ACCELERATOR="auto", run=lambda *arguments: calls.append(arguments))
    assert calls == [("-m", "pip", "install", "--quiet", "--requirement", "requirements.txt", package)]


def test_notebook_and_quickstart_state_the_same_duration():
    for document in ("\n".join(CELLS.values()), (ROOT / "scripts/quickstart.sh").read_text()):
        assert "about ten minutes on two CPU cores after the installation" in document
