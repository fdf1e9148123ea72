"""A Hub on this computer: one model, with the answers that huggingface_hub asks for, and commits that it takes."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(folder: Path, name: str, *, silent: str | None = None) -> Iterator[str]:
    """Serve `folder` as the model `name`; yield the address. silent: the ending of files that are never sent."""
    server = _Hub(folder, name, silent)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Hub(ThreadingHTTPServer):
    def __init__(self, folder: Path, name: str, silent: str | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name = name
        self.folder = folder
        self.silent = silent
        self.closing = threading.Event()

    @property
    def files(self) -> dict[str, Path]:
        return {str(path.relative_to(self.folder)): path for path in self.folder.rglob("*") if path.is_file()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        """Create, check a card, say how files are to be sent, and commit them, as the Hub's API does."""
        data, path, name = self._received(), self.path.partition("?")[0], self.server.name
        if not self.headers.get("Authorization", "").startswith("Bearer "):
            self._tell({"error": "no token"}, status=401)
        elif path == "/api/repos/create":
            self._tell({"url": f"http://127.0.0.1:{self.server.server_port}/{name}"})
        elif path == "/api/validate-yaml":
            self._tell({"errors": [], "warnings": []})
        elif path == f"/api/models/{name}/preupload/main":
            sent = [each["path"] for each in json.loads(data)["files"]]
            self._tell({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in sent]})
        elif path == f"/api/models/{name}/commit/main":
            self._commit([json.loads(line) for line in data.splitlines()])
        else:
            self._send(b"", body=True, status=404, **{"X-Error-Code": "RepoNotFound"})

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line["key"] == "file":
                place = self.server.folder / line["value"]["path"]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(base64.b64decode(line["value"]["content"]))
        address = f"http://127.0.0.1:{self.server.server_port}/{self.server.name}/commit/{COMMIT}"
        self._tell({"commitUrl": address, "commitOid": COMMIT, "success": True})

    def _received(self) -> bytes:
        """The body, also where its length is not known beforehand (RFC 9112, section 7.1)."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _tell(self, answer: dict[str, Any], status: int = 200) -> None:
        self._send(
            json.dumps(answer).encode(), body=True, status=status, **{"Content-Type": "application/json"}
        )

    def _answer(self, *, body: bool) -> None:
        path, name, files = self.path.partition("?")[0], self.server.name, self.server.files
        file = path.removeprefix(f"/{name}/resolve/").partition("/")[2]
        if path.startswith(f"/api/models/{name}/tree/"):
            tree = [_entry(each, place) for each, place in files.items()]
            self._send(json.dumps(tree).encode(), body=body)
        elif path.startswith(f"/api/models/{name}"):
            siblings = [{"rfilename": each} for each in files]
            self._send(json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), body=body)
        elif body and self.server.silent is not None and file.endswith(self.server.silent):
            self.server.closing.wait()
        elif file in files:
            self._send(files[file].read_bytes(), body=body, ETag=f'"{_etag(files[file])}"')
        else:
            self._send(b"", body=body, status=404, **{"X-Error-Code": "EntryNotFound"})

    def _send(self, content: bytes, *, body: bool, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _entry(name: str, path: Path) -> dict[str, str | int]:
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path)}


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
