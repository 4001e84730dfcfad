"""A hub on this machine that speaks what `huggingface_hub` asks of the real one to create, list, fill and tag."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass
class FakeHub:
    """What a hub knows.

    Attributes:
        token: the only one that it accepts.
        repositories: name -> whether it is private.
        files: path -> content, of the one repository that tests use.
        large: paths of files that came through LFS.
        uploads: SHA-256 of the large files that were uploaded, in order.
        commits, tags: messages; name of a tag -> number of commits then.
        requests: method and path of each request.
    """

    token: str
    url: str = ""
    repositories: dict[str, bool] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    blobs: dict[str, bytes] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    tags: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def get(self, path: str) -> tuple[int, Any]:
        if "/tree/main" in path:
            return 200, [self._entry(name, content) for name, content in sorted(self.files.items())]
        return 404, {"error": "not found"}

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content)}
        if name in self.large:
            sha256 = hashlib.sha256(content).hexdigest()
            return entry | {"oid": "pointer", "lfs": {"oid": sha256, "size": len(content), "pointerSize": 130}}
        return entry | {"oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}

    def post(self, path: str, body: bytes) -> tuple[int, Any]:
        if path.endswith("/commit/main"):
            return self._commit(
                path.split("/api/")[1].split("/commit/")[0], [json.loads(line) for line in body.splitlines()]
            )
        data = json.loads(body)
        if path == "/api/repos/create":
            name = f"{data['organization']}/{data['name']}" if data.get("organization") else data["name"]
            exists = name in self.repositories
            if not exists:
                self.repositories[name] = data.get("private", data.get("visibility") == "private")
            return (409 if exists else 200), {"url": f"{self.url}/datasets/{name}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/preupload/main"):
            return 200, {"files": [self._mode(file["path"]) for file in data["files"]]}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._upload(one) for one in data["objects"]]}
        if path.endswith("/tag/main"):
            exists = data["tag"] in self.tags
            self.tags.setdefault(data["tag"], len(self.commits))
            return (409 if exists else 200), {}
        return 404, {"error": "not found"}

    def put(self, path: str, body: bytes) -> tuple[int, Any]:
        sha256 = hashlib.sha256(body).hexdigest()
        assert path == f"/upload/{sha256}", "the content is not what was announced"
        self.blobs[sha256] = body
        self.uploads.append(sha256)
        return 200, {}

    def _mode(self, path: str) -> dict[str, Any]:
        is_large = path.endswith((".parquet", ".gz", ".png"))
        return {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False, "oid": None}

    def _upload(self, one: dict[str, Any]) -> dict[str, Any]:
        if one["oid"] in self.blobs:
            return one
        return one | {"actions": {"upload": {"href": f"{self.url}/upload/{one['oid']}", "header": {}}}}

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.commits.append(value["summary"])
            elif line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.blobs[value["oid"]]
                self.large.add(value["path"])
            elif line["key"] == "deletedFile":
                del self.files[value["path"]]
        oid = f"{len(self.commits):040x}"
        return 200, {"commitUrl": f"{self.url}/{repository}/commit/{oid}", "commitOid": oid}


@contextmanager
def fake_hub(token: str) -> Iterator[FakeHub]:
    """A hub that listens on the loopback until the block ends."""
    hub = FakeHub(token)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if "chunked" in self.headers.get("transfer-encoding", ""):
                body = b"".join(iter(self._chunk, b""))
            path = urlsplit(self.path).path
            hub.requests.append(f"{method} {path}")
            if method != "PUT" and self.headers.get("authorization") != f"Bearer {hub.token}":
                status, answer = 401, {"error": "Invalid credentials"}
            elif method == "GET":
                status, answer = hub.get(path)
            else:
                status, answer = (hub.post if method == "POST" else hub.put)(path, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _chunk(self) -> bytes:
            size = int(self.rfile.readline(), 16)
            chunk = self.rfile.read(size)
            self.rfile.readline()
            return chunk

        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def do_PUT(self) -> None:
            self._answer("PUT")

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
