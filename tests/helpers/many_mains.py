"""Runs `python -m MODULE` with several command lines, one after the other. Imports all modules only once.

    python tests/helpers/many_mains.py dist_jax.main < COMMAND_LINES

COMMAND_LINES has one JSON list of flags per line. For each line, prints a JSON object with the exit status and the
output. Each command line runs in a child process, forked after the imports.
"""

import importlib
import json
import os
import sys
import tempfile
from types import ModuleType

from absl import app

from dist_jax.errors import exit_with_message


def run(main: ModuleType, flags: list[str]) -> dict[str, int | str]:
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            try:
                sys.argv = ["main", *flags]  # ml_collections reads the overrides from sys.argv
                exit_with_message(lambda: app.run(main.main, sys.argv, main.parse_flags))
            except SystemExit as error:
                sys.stdout.flush()
                os._exit(error.code or 0)
        _, status = os.waitpid(child, 0)
        output.seek(0)
        return {"status": os.waitstatus_to_exitcode(status), "output": output.read().decode()}


if __name__ == "__main__":
    module = importlib.import_module(sys.argv[1])
    for line in sys.stdin.read().splitlines():
        print(json.dumps(run(module, json.loads(line))), flush=True)
