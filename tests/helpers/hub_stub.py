"""A server with the requests of huggingface_hub for model repositories, on loopback: download, create, upload.

Large files are uploaded with Git LFS (no Xet). Access is by one token.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

TOKEN = "hf_secret_of_the_test"
LFS_SUFFIX = ".safetensors"


@dataclass
class Repository:
    """The files of a repository and who can read them."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    @property
    def commit(self) -> str:
        """A commit hash that depends on all files."""
        text = "".join(f"{path} {git_hash(data)} " for path, data in sorted(self.files.items()))
        return hashlib.sha1(text.encode()).hexdigest()


@dataclass
class HubStub:
    """The state of the server."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    large_files: dict[str, bytes] = field(default_factory=dict)  # by SHA-256
    requests: list[str] = field(default_factory=list)  # "METHOD path"
    address: str = ""

    def add(self, name: str, folder: Path, **access: bool) -> None:
        """Adds a repository with the files of a folder."""
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.repositories[name] = Repository(files, **access)


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serve_hub(cache: Path, token: str | None = TOKEN) -> Iterator[HubStub]:
    """Runs the server, and makes huggingface_hub use it with an empty cache. `token`: None: nobody is logged in."""
    hub = HubStub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.address)
        patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        patch.delenv("HF_TOKEN", raising=False)
        if token:
            patch.setenv("HF_TOKEN", token)
        try:
            yield hub
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubStub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        name, path = re.match(r"/(?:api/models/)?([^/]+/[^/?]+)/?(.*)", self.path).groups()
        repository = self._readable(name)
        if repository is None:
            return
        if not self.path.startswith("/api/"):  # resolve/REVISION/FILE
            self._file(repository, path.split("/", 2)[2])
        elif path.startswith("tree/"):
            self._answer([_tree_entry(path, data) for path, data in repository.files.items()])
        else:
            siblings = [{"rfilename": path} for path in repository.files]
            about = {"sha": repository.commit, "private": repository.private, "gated": repository.gated}
            self._answer({"id": name, "siblings": siblings, **about})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self._body()
        self.hub.requests.append(f"{self.command} {self.path}")
        if not self._logged_in():
            return self._error(401, "", "Invalid credentials in Authorization header")
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path.endswith(".git/info/lfs/objects/batch"):
            files = [self._lfs(file) for file in json.loads(body)["objects"]]
            return self._answer({"transfer": "basic", "objects": files})
        name, action = re.match(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path).groups()
        if action == "preupload":
            modes = {True: "lfs", False: "regular"}
            paths = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": p, "uploadMode": modes[p.endswith(LFS_SUFFIX)], "shouldIgnore": False} for p in paths]
            return self._answer({"files": files})
        return self._commit(name, [json.loads(line) for line in body.splitlines()])

    def do_PUT(self) -> None:
        data = self._body()
        self.hub.large_files[hashlib.sha256(data).hexdigest()] = data
        self._send(200, b"", {})

    def _file(self, repository: Repository, path: str) -> None:
        data = repository.files.get(path)
        if data is None:
            return self._error(404, "EntryNotFound")
        return self._send(200, data, {"X-Repo-Commit": repository.commit, "ETag": f'"{git_hash(data)}"'})

    def _create(self, options: dict) -> None:
        name = f"{options['organization']}/{options['name']}"
        if options["organization"] == "others":
            return self._error(403, "", "You don't have the rights to create a model under this namespace")
        url = {"url": f"{self.hub.address}/{name}"}
        if name in self.hub.repositories:
            return self._answer(url, 409)
        self.hub.repositories[name] = Repository({".gitattributes": b""}, options.get("visibility") == "private")
        return self._answer(url)

    def _lfs(self, file: dict) -> dict:
        return {**file, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{file['oid']}"}}}

    def _commit(self, name: str, lines: list[dict]) -> None:
        files = self.hub.repositories[name].files
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large_files[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        commit = self.hub.repositories[name].commit
        self._answer({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.address}/{name}/commit/{commit}"})

    def _readable(self, name: str) -> Repository | None:
        """The repository; None after an error, as the hub sends it."""
        repository = self.hub.repositories.get(name)
        if repository is not None and repository.gated:
            return self._error(403, "GatedRepo")
        if repository is None or (repository.private and not self._logged_in()):
            return self._error(404 if self._logged_in() else 401, "RepoNotFound")
        return repository

    def _logged_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, content: object, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str = "") -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _tree_entry(path: str, data: bytes) -> dict:
    return {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
