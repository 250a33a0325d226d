"""Runs Python code in a process that cannot import this project."""

import os
import subprocess
import sys
from pathlib import Path

from helpers.compile_flags import FAST_COMPILE

# -I ignores PYTHONPATH and the working directory. The project may also be installed, so its name is blocked.
BLOCK = "import sys\nsys.modules['dist_jax'] = None\n"


def run_isolated(code: str, folder: Path) -> subprocess.CompletedProcess:
    """Runs `code` in `folder`; the result has the exit status and both outputs."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2", "XLA_FLAGS": FAST_COMPILE}
    return subprocess.run(
        [sys.executable, "-I", "-c", BLOCK + code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
