"""The middleware that protects the page: bounded requests of its own site alone, for a name of this computer."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Collection
from typing import final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_REMOTE = re.compile(r"/(file=|proxy=)\s*(\w+:|//)|/proxy=", re.IGNORECASE)
_READING = ("GET", "HEAD", "OPTIONS")
_QUESTION_BYTES = 2**20
"""Of a request that brings no file."""
_FRAME_BYTES = 2**16
"""Around the one file of an upload."""
_CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:;"
    " object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""Markup smuggled into the page could load nothing from elsewhere, and send nothing there."""


def names_of(host: str) -> frozenset[str]:
    """Return the names under which a page served on `host` may be requested.

    Another site can make its own name resolve to this computer (DNS rebinding), but not one of these.
    """
    if host in LOOPBACK:
        return frozenset(LOOPBACK)
    own = socket.gethostname().lower()
    return frozenset(
        {*LOOPBACK, host.lower(), own, f"{own.partition('.')[0]}.local", socket.getfqdn().lower()}
    )


@final
class Guard:
    """Refuses what another site sends, what is too large, and addresses to be fetched for a visitor.

    Args:
        app: What it protects.
        names: See `names_of`.
        addresses: Any address of this computer is allowed as well, as on a network of several.
        max_file_bytes: Of an upload.
        after_upload: Called when an upload has been answered, or has broken off.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        names: Collection[str],
        addresses: bool,
        max_file_bytes: int,
        after_upload: Callable[[], None],
    ) -> None:
        self._app, self._names, self._addresses = app, names, addresses
        self._max_file_bytes, self._after_upload = max_file_bytes, after_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, as ASGI prescribes."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _CONTENT_POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        objection = self._objection(scope, Headers(scope=scope))
        if objection is None:
            try:
                await self._app(scope, receive, guarded)
            finally:
                if _is_upload(scope):
                    self._after_upload()
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            status, words = objection
            await PlainTextResponse(words, status_code=status)(scope, receive, guarded)

    def _objection(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._is_own(host):
            return 400, "this page is not served under that name"
        if _is_foreign(scope, headers, host):
            return 403, "this page takes nothing from another site"
        if _REMOTE.search(scope["path"]):
            return 403, "addresses are not fetched"
        if scope["path"].rstrip("/").endswith("/component_server"):
            # What ImageEditor takes there would stay in memory; it sends files instead.
            return 403, "nothing of this page is called so"
        return None if scope.get("method", "GET") in _READING else self._size_objection(scope, headers)

    def _is_own(self, host: str) -> bool:
        name = _name(host)
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._addresses

    def _size_objection(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        length = headers.get("content-length", "")
        if not length.isdecimal():
            return 411, "the length of the request is missing"
        most = self._max_file_bytes + _FRAME_BYTES if _is_upload(scope) else _QUESTION_BYTES
        return (413, f"at most {most} bytes are taken") if int(length) > most else None


def _is_upload(scope: Scope) -> bool:
    return scope.get("method") == "POST" and str(scope["path"]).rstrip("/").endswith("/upload")


def _is_foreign(scope: Scope, headers: Headers, host: str) -> bool:
    """Whether a browser's request comes from another site; other programs do not say, and are allowed.

    A link to the page from elsewhere is allowed: it is a navigation, which only reads.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if origin is not None and origin.partition("://")[2].lower() != host.lower():
        return True
    reads = scope.get("method") in _READING and headers.get("sec-fetch-mode") == "navigate"
    return site not in ("same-origin", "none") and not reads


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
