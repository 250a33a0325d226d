#!/usr/bin/env bash
# Runs the linters, the type checker and the tests without those marked slow: minutes on two cores.
#
#   bash scripts/test.sh [pytest arguments]
#   bash scripts/test.sh -m ""                 # all tests, as in .ci/run
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
make_environment requirements.txt requirements-dev.txt

ruff format --check .
ruff check .
mypy dist_jax
# Most of the time is single-threaded compilation: run one process per core, at most four to limit memory.
JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=2 python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadgroup -m "not slow" "$@"
