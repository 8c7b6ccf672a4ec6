"""A hub on this machine: as much of its HTTP interface as an upload needs, kept in memory."""

import hashlib
import json
import re
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_aTokenThatNobodyMaySee"
LARGE = (".safetensors", ".bin")
"""What the hub keeps outside of git."""


@dataclass
class Repository:
    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})


@dataclass
class Hub:
    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    """By SHA-256."""
    calls: list[str] = field(default_factory=list)
    forbidden: bool = False
    """The token may read, and not write."""
    breaks: str | None = None
    """A part of a path for which the hub answers 500."""


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._say(200, {})

    def do_GET(self) -> None:
        self._route("GET")

    def do_POST(self) -> None:
        self._route("POST")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.path.removeprefix("/large/")
        assert hashlib.sha256(body).hexdigest() == name
        assert "Authorization" not in self.headers, "the storage is not the hub, and gets no token"
        self.hub.large[name] = body
        self._say(200, {})

    def _say(self, status: int, content: Any, **headers: str) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _route(self, verb: str) -> None:
        path, _, _ = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.calls.append(f"{verb} {path}")
        if self.hub.breaks and self.hub.breaks in path:
            return self._say(400, {"error": "it is broken"})
        if path == "/api/validate-yaml":
            return self._say(200, {"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._say(401, {"error": "Invalid credentials in Authorization header"})
        if path == "/api/whoami-v2":
            return self._say(200, {"name": "me", "type": "user", "orgs": []})
        if verb == "POST" and self.hub.forbidden:
            return self._say(403, {"error": "you have no right to write"})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if found := re.fullmatch(r"/(\w[\w.-]*/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return self._large(json.loads(body))
        found = re.fullmatch(r"/api/models/(\w[\w.-]*/[\w.-]+?)(?:/(\w+)/([^/]+))?", path)
        repository = found and self.hub.repositories.get(found[1])
        if found is None or repository is None:
            return self._say(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        what, revision = found[2], found[3] or "main"
        if what == "branch":
            if revision in repository.branches:
                return self._say(409, {"error": "Reference already exists"})
            repository.branches[revision] = dict(repository.branches["main"])
            return self._say(200, {})
        if revision not in repository.branches:
            return self._say(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        files = repository.branches[revision]
        if what in (None, "revision"):
            about = {"id": found[1], "private": repository.private, "sha": "0" * 40, "siblings": []}
            return self._say(200, about)
        if what == "tree":
            return self._say(200, [listed(name, content) for name, content in files.items()])
        if what == "preupload":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self._say(200, {"files": modes})
        assert what == "commit", self.path
        return self._commit(found[1], files, [json.loads(line) for line in body.splitlines()])

    def _create(self, asked: dict[str, Any]) -> None:
        owner = asked.get("organization") or "me"
        name = f"{owner}/{asked['name']}"
        if name in self.hub.repositories:
            return self._say(409, {"error": "You already created this model repo"})
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.repositories[name] = Repository(private, {"main": {".gitattributes": b"*.bin lfs\n"}})
        return self._say(200, {"url": f"{self.hub.url}/{name}", "id": "1", "name": name})

    def _large(self, asked: dict[str, Any]) -> None:
        objects = [
            {"oid": one["oid"], "size": one["size"]}
            | (
                {}
                if one["oid"] in self.hub.large
                else {"actions": {"upload": {"href": f"{self.hub.url}/large/{one['oid']}"}}}
            )
            for one in asked["objects"]
        ]
        return self._say(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, files: dict[str, bytes], lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.large[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        return self._say(200, {"commitUrl": f"{self.hub.url}/{name}/commit/1", "commitOid": "1" * 40})


def listed(name: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    about = {"type": "file", "oid": blob, "size": len(content), "path": name}
    if name.endswith(LARGE):
        sha256 = hashlib.sha256(content).hexdigest()
        about["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
    return about


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
