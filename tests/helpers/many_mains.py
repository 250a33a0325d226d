"""Runs `python -m dist_jax.main` with many command lines, one after the other, and imports everything only once.

    python tests/many_mains.py < command lines, JSON lists of strings, one a line

Prints for each its exit status and its output, JSON, one a line. Each runs in a process of its own, forked before
anything but imports has happened.
"""

import json
import os
import sys
import tempfile

from absl import app

from dist_jax import main
from dist_jax.errors import exit_with_message


def run(arguments: list[str]) -> dict:
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            try:
                sys.argv = ["main", *arguments]  # ml_collections looks there
                exit_with_message(lambda: app.run(main.main, sys.argv, main.parse_flags))
            except SystemExit as end:
                sys.stdout.flush()
                os._exit(end.code or 0)
        _, status = os.waitpid(child, 0)
        output.seek(0)
        return {"status": os.waitstatus_to_exitcode(status), "output": output.read().decode()}


if __name__ == "__main__":
    for line in sys.stdin.read().splitlines():
        print(json.dumps(run(json.loads(line))), flush=True)
