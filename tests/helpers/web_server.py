"""Starts `python -m dist_jax.serve` with a small model, and sends requests to it."""

import contextlib
import dataclasses
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dist_jax import convert
from dist_jax.weights import model_directory
from helpers import small_models
from helpers.launchers import ROOT
from helpers.training_run import environment

TIMEOUT_S = 300  # on a busy machine


def write_model(folder: Path, **changes: object) -> str:
    """Writes a model directory with three classes, a tokenizer and one view per video. It compiles fast: one layer."""
    tokenizer = small_models.write_tokenizer(folder / "tokenizer")
    vision, text = (dataclasses.replace(tower, num_layers=1) for tower in (small_models.VISION, small_models.TEXT))
    dist = dataclasses.replace(small_models.DIST, layers=(0,), num_pooling_layers=1)
    model = small_models.model(dist=dist, vision=vision, text=text, tokenizer=tokenizer)
    model = convert.with_classes(model, small_models.CLASSES)
    settings = {"eval_protocol": small_models.eval_protocol(num_views=1), "clip_seconds": 0.5, **changes}
    model_directory.write(folder / "model", dataclasses.replace(model, **settings))
    return str(folder / "model")


@dataclasses.dataclass(frozen=True)
class WebServer:
    """A running server."""

    process: subprocess.Popen
    port: int
    folder: Path  # its TMPDIR
    log: Path  # standard error

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.port}"

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> "Answer":
        """Sends a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read().decode())

    def post(self, path: str, video: bytes | None, **fields: str) -> "Answer":
        """Sends a form."""
        body, headers = encode_form(video, **fields)
        return self.request("POST", path, body, headers)

    def begin(self, path: str, body: bytes, length: int, headers: dict[str, str]) -> socket.socket:
        """Sends the headers of a request with `length` bytes, and the `body`, which may be shorter."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S)
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        return connection

    def uploads(self) -> list[Path]:
        """The files of requests."""
        return list(self.folder.glob("dist_jax-serve-*/uploads/*"))

    def wait_until(self, is_true: Callable[[], object]) -> None:
        """Returns when the server has done what it does after the last request."""
        end = time.monotonic() + TIMEOUT_S
        while not is_true():
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def stop(self) -> int:
        """Sends SIGTERM. Returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT_S)


@dataclasses.dataclass(frozen=True)
class Answer:
    """Answer to a request."""

    status: int
    headers: dict[str, str]
    text: str

    def json(self) -> dict:
        """The JSON object."""
        return json.loads(self.text)


def encode_form(video: bytes | None, **fields: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a form; `video` is the content of the file "v.mp4"."""
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    if video is not None:
        parts.append(b'Content-Disposition: form-data; name="video"; filename="v.mp4"\r\n\r\n' + video)
    body = b"".join(b"--BOUNDARY\r\n" + part + b"\r\n" for part in parts) + b"--BOUNDARY--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=BOUNDARY"}


@contextlib.contextmanager
def web_server(folder: Path, model: str, *arguments: str) -> Iterator[WebServer]:
    """Context manager of a server on a free port of the loopback interface. `folder` gets its files."""
    temporary, log = folder / "temporary", folder / "log"
    temporary.mkdir()
    command = [sys.executable, "-m", "dist_jax.serve", "--model", model, "--port", "0", *arguments]
    variables = {**environment(), "TMPDIR": str(temporary), "HOME": str(folder)}
    with log.open("wb") as output, subprocess.Popen(command, cwd=ROOT, env=variables, stderr=output) as process:
        try:
            yield WebServer(process, _wait_for_port(process, log), temporary, log)
        finally:
            process.kill()


def _wait_for_port(process: subprocess.Popen, log: Path) -> int:
    with log.open() as lines:
        while process.poll() is None:
            for line in lines:
                if match := re.search(r"^serving .* on http://127\.0\.0\.1:(\d+) ", line):
                    return int(match[1])
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
    raise RuntimeError(log.read_text())


def resident_memory(process: subprocess.Popen) -> int:
    """Resident memory of a process, bytes."""
    pages = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
