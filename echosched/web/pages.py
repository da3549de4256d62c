"""The dashboard's files, served from memory.

They are read once: what is served cannot leave the package by any path, and a page is of one version
even while an upgrade replaces files.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from aiohttp import web

PAGE = "dashboard.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No markup is ever made from strings: the browser enforces what the code promises.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # Asked again each time, answered 304 from memory: a page never mixes versions.
    "Cache-Control": "no-cache",
    "Server": "echosched",
}


@dataclass(frozen=True, slots=True)
class File:
    """One static file."""

    body: bytes
    content_type: str
    etag: str


class Pages:
    """Serves ``/dashboard`` and ``/static/…``."""

    def __init__(self, files: dict[str, File] | None = None) -> None:
        self._files = load(resources.files("echosched.web") / "static") if files is None else files

    async def dashboard(self, request: web.Request) -> web.StreamResponse:
        """Answer the page."""
        return self._serve(request, PAGE)

    async def static(self, request: web.Request) -> web.StreamResponse:
        """Answer one of the page's files."""
        return self._serve(request, request.match_info["path"])

    async def front(self, request: web.Request) -> web.StreamResponse:
        """Lead whoever typed only the address to the page (relative: a proxy may have put us below a path)."""
        return web.Response(status=302, headers={**_HEADERS, "Location": "dashboard"})

    def _serve(self, request: web.Request, name: str) -> web.StreamResponse:
        file = self._files.get(name)
        if file is None:
            raise web.HTTPNotFound
        headers = {**_HEADERS, "ETag": file.etag}
        if request.headers.get("If-None-Match") == file.etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.body, headers={**headers, "Content-Type": file.content_type})


def load(folder: Traversable, prefix: str = "") -> dict[str, File]:
    """Return all files below *folder* whose kind the page may use, by relative path."""
    files: dict[str, File] = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            files |= load(entry, f"{prefix}{entry.name}/")
            continue
        kind = _TYPES.get(entry.name[entry.name.rfind(".") :])
        if kind is not None:
            body = entry.read_bytes()
            files[prefix + entry.name] = File(body, kind, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return files
