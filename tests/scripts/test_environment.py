"""scripts/environment.sh and quickstart.sh with stubs of the Python interpreters."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
BASH = shutil.which("bash")
PYTHON = r"""#!/usr/bin/env bash
version=VERSION able="ABLE"
folder="$(dirname "$(dirname "$0")")"
make() { mkdir -p "$1/bin"; cp "$0" "$1/bin/python"; echo "PATH=\"$1/bin:\$PATH\"" >"$1/bin/activate"; }
case "$*" in
  "-c import sys"*) echo "$version" ;;
  "-c import ensurepip") [[ "$able" == *ensurepip* ]] ;;
  "-m venv --without-pip "*) make "$4" ;;
  "-m venv "*)
    make "$3"
    if [[ "$able" != *ensurepip* ]]; then echo "ensurepip is not available"; exit 1; fi
    if [[ "$able" == *full* ]]; then printf 'Traceback\nOSError: No space left on device\n'; exit 1; fi
    touch "$3/pip" ;;
  "-m ensurepip") [[ "$able" == *ensurepip* ]] && touch "$folder/pip" ;;
  "-m pip --python "*) [[ "$able" == *pip-for-others* ]] && touch "$(dirname "$(dirname "$4")")/pip" ;;
  "-m pip --version") [[ -e "$folder/pip" ]] ;;
  "-m pip install "*) [[ -e "$folder/pip" && "$able" != *offline* ]] && echo "$*" >>"$folder/../installs" ;;
  *" "*) IFS="|"; echo "$MPLBACKEND|$*" >>"$folder/../calls" ;;
  *) exit 9 ;;
esac
"""


class Checkout:
    """A folder with environment.sh and requirement files, and a PATH with the given interpreters only."""

    def __init__(self, folder, **versions):
        self.folder, self.bin = folder / "it's a checkout", folder / "bin"
        (self.folder / "scripts").mkdir(parents=True)
        self.bin.mkdir()
        shutil.copy(SCRIPTS / "environment.sh", self.folder / "scripts")
        (self.folder / "requirements.txt").write_text("jax\n")
        (self.folder / "requirements-dev.txt").write_text("pytest\n")
        for tool in ("bash", "cat", "cp", "dirname", "env", "mkdir", "rm", "tail", "touch"):
            (self.bin / tool).symlink_to(shutil.which(tool))
        for name, version in versions.items():
            self.python(name.replace("_", "."), version)

    @property
    def venv(self):
        return self.folder / ".venv"

    def python(self, name, version, able="ensurepip"):
        """Adds a stub interpreter to PATH. version=None: one that fails, as pyenv's."""
        text = PYTHON.replace("VERSION", version or "").replace("ABLE", able)
        path = self.bin / name
        path.write_text(text if version else "#!/usr/bin/env bash\necho 'command not found' >&2\nexit 127\n")
        path.chmod(0o755)

    def run(self, files="requirements.txt", **environment):
        """Sources environment.sh like the scripts do, and prints the version of the active `python`."""
        command = f"set -euo pipefail; source scripts/environment.sh; make_environment {files}; python -c 'import sys'"
        environment = {"PATH": str(self.bin), **environment}
        return subprocess.run(
            [BASH, "-c", command, "scripts/quickstart.sh"],
            **{"cwd": self.folder, "env": environment, "capture_output": True, "text": True, "timeout": 60},
        )

    def installs(self):
        """Requirement files passed to pip, in order."""
        file = self.folder / "installs"
        return [Path(line).name for line in file.read_text().splitlines()] if file.exists() else []

    def quickstart(self, *arguments):
        """Runs quickstart.sh with stubs. Returns the words of each Python command."""
        for name in ("quickstart.sh", "stages.sh"):
            shutil.copy(SCRIPTS / name, self.folder / "scripts")
        environment = {"PATH": str(self.bin), "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        result = subprocess.run(
            [BASH, "scripts/quickstart.sh", *arguments],
            **{"cwd": self.folder, "env": environment, "capture_output": True, "text": True, "timeout": 60},
        )
        assert (result.returncode, result.stderr) == (0, "")
        return [line.split("|") for line in (self.folder / "calls").read_text().splitlines()]


def used(result):
    """Version of the interpreter in .venv."""
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()[-1]


def refused(result):
    """The one-line error message."""
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"python3": "3.11", "python3_13": "3.13"}, "3.11"),  # the active one has priority
        ({"python3": "3.14", "python3_11": "3.11", "python3_12": "3.12"}, "3.12"),
        ({"python3": "3.10", "python3_13": None, "python3_11": "3.11"}, "3.11"),
        ({"python3_13": "3.13"}, "3.13"),
    ],
)
def test_the_default_is_python3_or_the_newest_supported_version(tmp_path, versions, expected):
    assert used(Checkout(tmp_path, **versions).run()) == expected


def test_the_PYTHON_variable_selects_the_interpreter(tmp_path):
    checkout = Checkout(tmp_path, python3="3.11", python3_13="3.13")
    assert used(checkout.run(PYTHON="python3.13")) == "3.13"


@pytest.mark.parametrize(
    ("versions", "python", "reason"),
    [
        ({"python3": "3.14"}, None, "but python3 is 3.14;"),
        ({"python3": "3.10", "python3_12": "3.14"}, None, "but python3 is 3.10, python3.12 is 3.14;"),
        ({}, None, "but python3 does not run;"),
        ({"python3": "3.12", "python3_14": "3.14"}, "python3.14", "but python3.14 is 3.14;"),
        ({"python3": "3.12"}, "pypy", "but pypy does not run;"),
    ],
)
def test_unsupported_versions_are_refused_in_one_line(tmp_path, versions, python, reason):
    checkout = Checkout(tmp_path, **versions)
    message = refused(checkout.run(**({"PYTHON": python} if python else {})))
    assert "JAX and TensorFlow need Python 3.11 to 3.13" in message
    assert reason in message
    assert "PYTHON=python3.12 bash scripts/quickstart.sh" in message
    assert not checkout.venv.exists()


def test_requirements_are_installed_again_only_after_a_change(tmp_path):
    checkout = Checkout(tmp_path, python3="3.12")
    used(checkout.run("requirements.txt requirements-dev.txt"))
    used(checkout.run())
    assert checkout.installs() == ["requirements.txt", "requirements-dev.txt"]
    (checkout.folder / "requirements.txt").write_text("jax\nflax\n")
    used(checkout.run())
    assert checkout.installs()[2:] == ["requirements.txt"]


def test_a_failed_installation_is_retried(tmp_path):
    checkout = Checkout(tmp_path)
    checkout.python("python3", "3.12", "ensurepip, offline")
    assert checkout.run().returncode != 0
    stub = checkout.venv / "bin/python"
    stub.write_text(stub.read_text().replace("ensurepip, offline", "ensurepip"))
    assert used(checkout.run()) == "3.12"
    assert checkout.installs() == ["requirements.txt"]


def test_an_incomplete_environment_is_replaced(tmp_path):
    checkout = Checkout(tmp_path)
    checkout.python("python3", "3.12", able="")
    assert "sudo apt install python3.12-venv\n" in refused(checkout.run())
    assert not checkout.venv.exists()
    # The state after a failed `python3 -m venv` on Debian. It is active, so `python3` is inside the removed folder.
    (checkout.venv / "bin").mkdir(parents=True)
    for name in ("python", "python3"):
        shutil.copy(checkout.bin / "python3", checkout.venv / "bin" / name)
    checkout.python("python3", "3.12")
    result = checkout.run(PATH=f"{checkout.venv}/bin:{checkout.bin}")
    assert used(result) == "3.12"
    assert "removing .venv: it has no Python 3.11 to 3.13 with pip\n" in result.stdout


@pytest.mark.parametrize("removed", [False, True])
def test_an_environment_with_another_python_version_is_replaced(tmp_path, removed):
    checkout = Checkout(tmp_path, python3="3.12")
    used(checkout.run())
    stub = checkout.venv / "bin/python"
    text = stub.read_text()
    stub.unlink()
    if removed:  # as after an upgrade of the system's Python
        stub.symlink_to(tmp_path / "removed")
    else:
        stub.write_text(text.replace("version=3.12", "version=3.14"))
        stub.chmod(0o755)
    assert used(checkout.run()) == "3.12"
    assert len(checkout.installs()) == 2


def test_an_environment_without_pip_keeps_its_contents(tmp_path):
    checkout = Checkout(tmp_path, python3="3.12")
    used(checkout.run())
    for name in ("pip", "installed.txt"):
        (checkout.venv / name).unlink()
    (checkout.venv / "mine").touch()  # uv creates environments without pip
    used(checkout.run())
    assert (checkout.venv / "mine").exists()


def test_without_ensurepip_another_pip_installs_pip(tmp_path):
    checkout = Checkout(tmp_path)
    checkout.python("python3", "3.12", "pip-for-others")  # as on Colab
    assert used(checkout.run()) == "3.12"
    assert checkout.installs() == ["requirements.txt"]


def test_other_errors_of_venv_are_shown(tmp_path):
    checkout = Checkout(tmp_path)
    checkout.python("python3", "3.12", "ensurepip, full")
    message = refused(checkout.run())
    assert message == "error: python3 (Python 3.12) cannot create .venv: OSError: No space left on device\n"


@pytest.mark.parametrize("short", [False, True])
def test_quickstart_runs_its_stages_in_order(tmp_path, short):
    calls = Checkout(tmp_path, python3="3.12").quickstart(*(["--short"] if short else []))
    demo, output = "examples.demo", "demo/short" if short else "demo"
    data = [f"{demo}.render_videos", f"{demo}.train_tiny_backbone", *["dist_jax.build_records"] * 2]
    runs = [*["dist_jax.main"] * 4, "dist_jax.compare"]
    assert [call[2] for call in calls] == [*data, *runs, f"{demo}.report", "dist_jax.predict"]
    # The backend of a notebook is not installed in .venv: with it, importing matplotlib would fail.
    assert {call[0] for call in calls} == {"agg"}
    # Without --short there are no size options, and no empty word from an empty array.
    assert calls[0][3:] == ["--output", f"{output}/videos", *(["--train", "96", "--val", "24"] if short else [])]
    assert ("--config.steps=12" in calls[4]) == short
