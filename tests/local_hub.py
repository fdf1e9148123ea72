"""A Hub on this computer: one model, a diffusers folder, with the answers that huggingface_hub asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(folder: Path, name: str) -> Iterator[str]:
    """Serve `folder` as the model `name`; yield the address."""
    server = _Hub(folder, name)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Hub(ThreadingHTTPServer):
    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name = name
        self.files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path, name, files = self.path.partition("?")[0], self.server.name, self.server.files
        file = path.removeprefix(f"/{name}/resolve/").partition("/")[2]
        if path.startswith(f"/api/models/{name}/tree/"):
            tree = [_entry(each, place) for each, place in files.items()]
            self._send(json.dumps(tree).encode(), body=body)
        elif path.startswith(f"/api/models/{name}"):
            siblings = [{"rfilename": each} for each in files]
            self._send(json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), body=body)
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
