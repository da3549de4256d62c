"""One HTTP call, from what the job says to the verdict. aiohttp is imported when the first one is made.

Nothing of a call is shared with the next: no connection (a stale one would fail a run for nothing), no
cookie. The answer is read up to the output's limit and no further, never unpacked, and written with the
resolved secrets masked.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from echosched.errors import ExecutionError
from echosched.executor import redirect
from echosched.executor.secrets import Redactor
from echosched.executor.task import in_thread
from echosched.model import HttpAction, Result, State

if TYPE_CHECKING:
    import aiohttp

_CHUNK = 64 * 1024
_BODY_FOR_PATTERN = 256 * 1024  # how much of a body expect_body looks at; matching stops the loop
_HIDDEN_HEADERS = frozenset(
    {"set-cookie", "set-cookie2", "authorization", "proxy-authorization", "www-authenticate"}
)


def resolve(action: HttpAction, redactor: Redactor) -> HttpAction:
    """Return *action* with its references resolved; raises ``ExecutionError``. Reads files: not for the loop."""
    url = redactor.resolve(action.url)
    try:
        parts = urlsplit(url)
        complete = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        complete = False
    if not complete:
        raise ExecutionError(f"http: {action.url}: not a complete http:// or https:// address")
    return replace(
        action,
        url=url,
        headers=tuple((name, redactor.resolve(value)) for name, value in action.headers),
        body=None if action.body is None else redactor.resolve(action.body),
        json=None if action.json is None else redactor.resolve(action.json),
        ca_file=None if action.ca_file is None else redactor.resolve(action.ca_file),
        cert_file=None if action.cert_file is None else redactor.resolve(action.cert_file),
        key_file=None if action.key_file is None else redactor.resolve(action.key_file),
    )


def open_session() -> aiohttp.ClientSession:
    """Return what calls are made with; from the running loop."""
    import aiohttp
    from aiohttp.abc import AbstractResolver

    class Resolver(AbstractResolver):
        """Looks names up in threads: the loop never waits for a name server."""

        async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[Any]:
            look_up = partial(socket.getaddrinfo, type=socket.SOCK_STREAM, family=family)
            found, failure = await in_thread("resolve", look_up, host, port)
            if failure is not None:
                raise failure
            return [
                {
                    "hostname": host,
                    "host": address[0],
                    "port": address[1],
                    "family": kin,
                    "proto": protocol,
                    "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                }
                for kin, _, protocol, _, address in found
            ]

        async def close(self) -> None:
            """Nothing of its own to close."""

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=Resolver(), force_close=True, limit=0, use_dns_cache=False),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
        skip_auto_headers=("User-Agent",),
    )


class Request:
    """What is sent for *action*, whose references are resolved. Reads certificates: not for the loop."""

    def __init__(self, action: HttpAction) -> None:
        self.action = action
        headers = {"User-Agent": "echosched", **dict(action.headers)}
        data: bytes | None = None
        if action.json is not None:
            data = action.json.encode()
            headers.setdefault("Content-Type", "application/json")
        elif action.body is not None:
            data = action.body.encode("utf-8", "surrogateescape")
        self.first = redirect.Hop(action.url, action.method, headers, data)
        secure = urlsplit(action.url).scheme == "https"
        self.tls = _tls(action) if secure or action.follow_redirects else True


def _tls(action: HttpAction) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=action.ca_file)
    except OSError as err:
        raise ExecutionError(f"http: ca_file {action.ca_file}: {err.strerror or err}") from err
    if not action.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if action.cert_file is not None:
        try:
            context.load_cert_chain(action.cert_file, action.key_file, password=lambda: "")
        except (OSError, ValueError) as err:
            reason = getattr(err, "strerror", None) or err
            raise ExecutionError(f"http: cert_file {action.cert_file}: {reason}") from err
    return context


class Exchange:
    """One call, from sending to the verdict; *descriptor*, closed at the end, takes the answer up to *limit* bytes."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        request: Request,
        redactor: Redactor,
        descriptor: int | None,
        limit: int,
    ) -> None:
        self._session = session
        self._request = request
        self._action = request.action
        self._redactor = redactor
        self._descriptor = descriptor
        self._room = limit
        self._written = 0

    async def run(self) -> Result:
        """Make the call and judge the answer; an answer that cannot be had is a failure with its reason."""
        try:
            state, error = await self._exchange()
        except asyncio.CancelledError:
            raise
        except Exception as err:  # noqa: BLE001  (the boundary around an attempt: a server may send anything)
            state, error = State.FAILED, _reason(err)
        finally:
            size = None if self._descriptor is None else self._written
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
        if error is not None:
            error = self._redactor.text(error)
        return Result(state, error=error, output_bytes=size)

    async def _exchange(self) -> tuple[State, str | None]:
        hop = self._request.first
        for _ in range(redirect.MOST + 1):
            # Redirects are followed here: aiohttp would take all headers along, to whatever server.
            async with self._session.request(
                hop.method,
                hop.url,
                headers=hop.headers,
                data=hop.data,
                ssl=self._request.tls,
                allow_redirects=False,
            ) as response:
                location = response.headers.get("Location")
                follow = self._action.follow_redirects and response.status in redirect.STATUSES
                if not follow or not location:
                    return await self._judge(response)
                secret = hop.data is not None and self._redactor.knows(hop.data)
                hop = redirect.following(hop, response.status, location, secret=secret)
        return State.FAILED, "HTTP: too many redirects"

    async def _judge(self, response: aiohttp.ClientResponse) -> tuple[State, str | None]:
        action = self._action
        self._write_head(response)
        body = await self._read_body(response)
        status = f"{response.status} {response.reason or ''}".strip()
        wanted = response.status in action.expect if action.expect else 200 <= response.status < 300
        if not wanted:
            expected = ", ".join(map(str, action.expect)) if action.expect else "2xx"
            return State.FAILED, f"HTTP status {status} (expected {expected})"
        pattern = action.expect_body
        if pattern is not None and re.search(pattern, body.decode("utf-8", "replace")) is None:
            return State.FAILED, f"HTTP status {status}, but the body does not match {pattern!r}"
        return State.SUCCEEDED, None

    def _write_head(self, response: aiohttp.ClientResponse) -> None:
        version = response.version
        name = f"HTTP/{version.major}.{version.minor}" if version else "HTTP"
        lines = [f"{name} {response.status} {response.reason or ''}".rstrip()]
        for raw_name, raw_value in response.raw_headers:
            header, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            lines.append(f"{header}: {'***' if header.lower() in _HIDDEN_HEADERS else value}")
        text = self._redactor.text("\n".join(lines) + "\n\n")
        self._write(text.encode("utf-8", "surrogateescape"))

    async def _read_body(self, response: aiohttp.ClientResponse) -> bytes:
        start = bytearray()
        keep = _BODY_FOR_PATTERN if self._action.expect_body is not None else 0
        while self._room > 0 or len(start) < keep:
            chunk = await response.content.read(_CHUNK)
            if not chunk:
                self._write(self._redactor.flush())
                return bytes(start)
            if len(start) < keep:
                start += chunk[: keep - len(start)]
            self._write(self._redactor.feed(chunk))
        self._write(self._redactor.flush())
        # More than anybody wants to keep: hang up rather than read on.
        response.close()
        return bytes(start)

    def _write(self, data: bytes) -> None:
        data = data[: max(self._room, 0)]
        self._room -= len(data)
        self._written += len(data)
        while data and self._descriptor is not None:
            data = data[os.write(self._descriptor, data) :]


def _reason(err: BaseException) -> str:
    import aiohttp

    if isinstance(err, ExecutionError):
        return str(err)
    cause = err.__cause__ if err.__cause__ is not None else err
    os_error = getattr(err, "os_error", None) or cause
    if isinstance(os_error, ssl.SSLCertVerificationError):
        return f"HTTP: the server's certificate is not trusted: {os_error.verify_message}"
    if isinstance(os_error, ssl.SSLError):
        return _tls_reason(os_error, err)
    if isinstance(os_error, socket.gaierror):
        return f"HTTP: the name {getattr(err, 'host', '')!r} does not resolve: {os_error.strerror}"
    if isinstance(err, aiohttp.ServerDisconnectedError):
        return "HTTP: the server closed the connection without an answer"
    if isinstance(err, aiohttp.ClientPayloadError):
        return f"HTTP: the answer broke off: {err}"
    if isinstance(err, aiohttp.ClientResponseError):
        return f"HTTP: the answer makes no sense: {err.message}"
    if isinstance(err, aiohttp.InvalidURL):
        return "HTTP: the address is malformed"
    if isinstance(os_error, OSError) and os_error.strerror:
        host, port = getattr(err, "host", None), getattr(err, "port", None)
        where = f"{host}:{port}: " if host else ""
        # asyncio puts a sentence of its own where the system's belongs.
        reason = os.strerror(os_error.errno) if os_error.errno else os_error.strerror
        return f"HTTP: {where}{reason}"
    return f"HTTP: {type(err).__name__}: {err}"


def _tls_reason(err: ssl.SSLError, outer: BaseException) -> str:
    host, port = getattr(outer, "host", None), getattr(outer, "port", None)
    where = f"{host}:{port}: " if host else ""
    # A server without TLS answers the handshake in plain text, which OpenSSL calls by various names.
    if err.reason in (
        "WRONG_VERSION_NUMBER",
        "RECORD_LAYER_FAILURE",
        "HTTP_REQUEST",
        "PACKET_LENGTH_TOO_LONG",
    ):
        return f"HTTP: {where}the server does not speak TLS there (http:// instead of https://?)"
    reason = (err.reason or str(err)).replace("_", " ").lower()
    return f"HTTP: {where}no TLS connection: {reason}"
