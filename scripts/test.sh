#!/usr/bin/env bash
# Lints and tests the project: bash scripts/test.sh [arguments for pytest]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
make_environment requirements.txt requirements-dev.txt

ruff format --check .
ruff check .
# Most of the time is compilation on one core, so one process a core; more than four would want much memory.
JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=2 python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadgroup "$@"
