"""A Hugging Face hub on loopback: folders as repositories, in the part of the hub's API that its clients call.

with HubServer(root) as hub:            # root/models/OWNER/NAME/..., root/datasets/OWNER/NAME/...
    os.environ["HF_ENDPOINT"] = hub.url
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(auth-check|revision|tree|paths-info)(?:/([^/]+))?(?:/(.*))?)?"
)
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class HubError(Exception):
    """A refusal: HTTP status and the code that the client makes its exception from."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class HubServer:
    """Serves the folder `root` while it is entered. Every repository has one commit, whose id is a hash of its name.

    Args:
      gated: names whose files are refused, as if their licence were not accepted; what is told of them is public.
    """

    def __init__(self, root: Path, gated: tuple[str, ...] = ()) -> None:
        self.root, self.gated = root, gated
        self.requests: list[str] = []  # "METHOD /path", in order

    def __enter__(self) -> HubServer:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def check_access(self, name: str) -> None:
        """Refuses a gated repository."""
        if name in self.gated:
            raise HubError(403, "GatedRepo")

    def folder(self, kind: str, name: str, revision: str = "main") -> Path:
        """The folder of a repository."""
        folder = self.root / kind / name
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or not folder.is_dir():
            raise HubError(404, "RepoNotFound")
        if revision not in ("main", commit_of(name)):
            raise HubError(404, "RevisionNotFound")
        return folder

    def file(self, kind: str, name: str, revision: str, path: str) -> Path:
        """A file of a repository."""
        self.check_access(name)
        file = self.folder(kind, name, revision) / path
        if not file.is_file():
            raise HubError(404, "EntryNotFound")
        return file

    def answer_api(self, kind: str, name: str, verb: str, revision: str, path: str, query: dict[str, Any]) -> Any:
        """The JSON of a call about a repository."""
        folder = self.folder(kind, name, revision)
        if verb == "auth-check":
            self.check_access(name)
        entries = [_entry(folder, item) for item in sorted(folder.rglob("*"))]
        if verb == "paths-info":
            return [entry for entry in entries if entry["path"] in query["paths"]]
        if verb == "tree":
            inside = f"{path.strip('/')}/" if path.strip("/") else ""
            entries = [entry for entry in entries if entry["path"].startswith(inside)]
            if inside and not entries:
                raise HubError(404, "EntryNotFound")
            deep = "true" in [value.lower() for value in query.get("recursive", [])]
            return entries if deep else [e for e in entries if "/" not in e["path"].removeprefix(inside)]
        files = [{"rfilename": entry["path"]} for entry in entries if entry["type"] == "file"]
        about = {"id": name, "sha": commit_of(name), "private": False, "gated": name in self.gated, "disabled": False}
        return about | {"lastModified": "2024-06-01T00:00:00.000Z", "tags": [], "downloads": 0, "siblings": files}


def commit_of(name: str) -> str:
    """The commit of a repository, 40 hexadecimal digits."""
    return hashlib.sha1(name.encode()).hexdigest()


def _entry(folder: Path, item: Path) -> dict[str, Any]:
    path = item.relative_to(folder).as_posix()
    if item.is_dir():
        return {"type": "directory", "path": path, "oid": commit_of(path), "size": 0}
    return {"type": "file", "path": path, "oid": _etag(item), "size": item.stat().st_size}


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._respond()

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.hub.requests.append(f"{self.command} {self.path}")
        try:
            self._route(body)
        except HubError as error:
            self._send(error.status, b"", {"X-Error-Code": error.code, "X-Error-Message": error.code})

    def _route(self, body: bytes) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        if call := _API.fullmatch(path):
            kind, name, verb, revision, inside = call.groups(default="")
            if body:
                form = body.decode()
                query = json.loads(form) if form.startswith("{") else parse_qs(form)
            reply = self.hub.answer_api(kind, name, verb, unquote(revision) or "main", inside, query)
            self._send(200, json.dumps(reply).encode(), {"content-type": "application/json"})
        elif call := _FILE.fullmatch(path):
            kind, name, revision, inside = call.groups(default="")
            file = self.hub.file("datasets" if kind else "models", name, revision, inside)
            self._send_file(file, commit_of(name))
        else:
            raise HubError(404, "RepoNotFound")

    def _send_file(self, file: Path, commit: str) -> None:
        data = file.read_bytes()
        headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        status = 200
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range") or ""):
            first, last = int(span[1]), int(span[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"
            data, status = data[first : last + 1], 206
        self._send(status, data, headers)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"content-length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
