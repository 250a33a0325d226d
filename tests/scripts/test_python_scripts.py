"""The Python scripts: command lines and their documentation."""

import re
import subprocess
import sys

import pytest
from helpers.launchers import ROOT


@pytest.mark.parametrize("script", ["soak", "bench_input"])
def test_documented_command_line_starts(script):
    docs = (ROOT / "docs/launch.md").read_text()
    assert f"python -m scripts.{script}" in docs
    assert f"scripts/{script}.py" not in docs
    command = [sys.executable, "-m", f"scripts.{script}", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    options = re.findall(r"^  (--[a-z_-]+)", result.stdout, re.M)
    assert [option for option in options if "_" in option] == []
