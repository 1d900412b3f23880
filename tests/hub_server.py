"""A Hub of this process: what huggingface_hub's own client asks of one for a data set's files."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class HubServer:
    """Serves on loopback until `close`.

    Attributes
    ----------
    repos : name to files, by path
    heads : name to the last commit
    commits : of every repository, to its files then
    private : names of those that were asked to be
    sent : sha256 to what was sent ahead of a commit
    requests : method and path of each
    failing : status of the next answers to commits, the last one first
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.heads: dict[str, str] = {}
        self.commits: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.sent: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.failing: list[int] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status, and bytes or what becomes JSON."""
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":  # of a card's head
            return 200, {"errors": [], "warnings": []}
        if parts[0] == "lfs":
            self.sent[parts[1]] = body
            assert hashlib.sha256(body).hexdigest() == parts[1]
            return 200, b""
        if parts[-2:] == ["objects", "batch"]:
            return 200, {"transfer": "basic", "objects": [
                {**o, **({} if o["oid"] in self.sent else {"actions": {"upload": {
                    "href": f"{self.url}/lfs/{o['oid']}"}}})} for o in json.loads(body)["objects"]]}
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[1:3])
        if name not in self.repos:
            return 404, {"error": "Repository not found"}
        if parts[0] == "datasets":
            return self._file(self._at(parts[4]) or self.repos[name], "/".join(parts[5:]))
        what, rest = (parts[4], "/".join(parts[6:])) if len(parts) > 4 else ("revision", "")
        files = self._at(parts[5] if len(parts) > 5 else "main")
        if what == "revision":
            if files is None and parts[5:] not in ([], ["main"]):
                return 404, {"error": "Revision not found"}
            sha = self.heads[name] if files is None else parts[5]
            return 200, {"id": name, "sha": sha, "private": True, "tags": []}
        if what == "preupload":
            return 200, {"files": [
                {"path": f["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if f["size"] >= 2**20 else "regular"}
                for f in json.loads(body)["files"]]}
        if what == "paths-info":
            nodes = [(path, self._tree(files or self.repos[name], path.rpartition("/")[0]))
                     for path in parse_qs(body.decode())["paths"]]
            return 200, [node for path, (status, found) in nodes if status == 200
                         for node in found if node["path"] == path]
        return self._commit(name, body) if what == "commit" else \
            self._tree(files or self.repos[name], rest)

    def _at(self, revision: str) -> dict[str, bytes] | None:
        return self.commits.get(revision)

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        assert asked["type"] == "dataset"
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repos:
            return 409, {"url": f"{self.url}/datasets/{name}"}
        self.repos[name] = {".gitattributes": b"*.0 filter=lfs\n"}
        self.heads[name] = hashlib.sha1(name.encode()).hexdigest()
        self.commits[self.heads[name]] = self.repos[name]
        if asked.get("private") or asked.get("visibility") == "private":
            self.private.add(name)
        return 200, {"url": f"{self.url}/datasets/{name}"}

    def _commit(self, name: str, body: bytes) -> tuple[int, Any]:
        if self.failing and (status := self.failing.pop()) != 200:
            return status, {"error": "no"}
        files = dict(self.repos[name])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit", self.heads[name]) \
                    != self.heads[name]:
                return 412, {"error": "a commit has happened since"}
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.sent[value["oid"]]
            elif line["key"].startswith("deleted"):
                gone = value["path"].rstrip("/")
                files = {p: raw for p, raw in files.items()
                         if p != gone and not p.startswith(f"{gone}/")}
        self.repos[name] = files
        self.heads[name] = hashlib.sha1(body + self.heads[name].encode()).hexdigest()
        self.commits[self.heads[name]] = files
        return 200, {"success": True, "commitOid": self.heads[name],
                     "commitUrl": f"{self.url}/datasets/{name}/commit/{self.heads[name]}"}

    def _tree(self, files: dict[str, bytes], folder: str) -> tuple[int, Any]:
        start = f"{folder}/" if folder else ""
        below = {path[len(start):]: raw for path, raw in files.items()
                 if path.startswith(start)}
        if not below:
            return 404, {"error": "no such entry"}
        nodes = {}
        for path, raw in below.items():
            own, _, inside = path.partition("/")
            nodes[own] = {"type": "directory" if inside else "file", "path": start + own,
                          "oid": hashlib.sha1(own.encode()).hexdigest(),
                          "size": 0 if inside else len(raw)}
        return 200, [nodes[own] for own in sorted(nodes)]

    def _file(self, files: dict[str, bytes], path: str) -> tuple[int, Any]:
        raw = files.get(path)
        return (404, {"error": "Entry not found"}) if raw is None else (200, raw)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else head and body, written apart, are 40 ms apart

    def _any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        self.hub.requests.append(f"{self.command} {path}")
        status, answer = self.hub.answer(self.command, path, body)
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        wanted = self.headers.get("range")
        if status == 200 and wanted:
            start, stop = map(int, wanted.removeprefix("bytes=").split("-"))
            status, raw = 206, raw[start : stop + 1]
        self.send_response(status)
        if status == 404:
            missing = {b"Repository": "Repo", b"Revision": "Revision"}.get(raw[11:].split()[0],
                                                                           "Entry")
            self.send_header("X-Error-Code", f"{missing}NotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_POST = do_PUT = _any

    def log_message(self, *_: Any) -> None:
        pass
