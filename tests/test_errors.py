import os
import subprocess
import sys

import pytest

from dist_jax import errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("naïve.mp4: 50% of 3", "naïve.mp4: 50% of 3"),
        ("two\nlines\r\x1b[0m", r"two\nlines\r\x1b[0m"),
        (os.fsdecode(b"caf\xe9.mp4"), r"caf\xe9.mp4"),
    ],
)
def test_a_message_is_one_printable_line(text, expected):
    assert errors.one_line(text) == expected


def test_warn_once_prints_a_message_once(capsys):
    for _ in range(2):
        errors.warn_once("this test is unique")
    assert capsys.readouterr().err == "warning: this test is unique\n"


def test_any_file_name_can_be_printed():
    program = (
        "import os; from dist_jax.errors import UserError, exit_with_message\n"
        "def main():\n    print(os.fsdecode(b'out \\xe9'), '\\u65e5')\n"
        "    raise UserError(os.fsdecode(b'err\\n\\xe9'))\n"
        "exit_with_message(main)"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert process.returncode == 1
    assert process.stdout == b"out \\udce9 \\u65e5\n" and process.stderr == b"error: err\\n\\xe9\n"


def test_a_command_ends_quietly_if_nobody_reads_its_output():
    code = "from dist_jax.errors import exit_with_message\nexit_with_message(lambda: [print(i) for i in range(100000)])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
    process.stderr.close()
