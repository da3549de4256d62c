"""What stands before every endpoint: host check, key, body limit, time guard, uniform errors.

Order matters. The Host header is judged first (a page under a foreign name must not even learn
whether a key is right), then the key (who has none learns nothing about addresses or methods),
then the body, then the parameters.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from echosched.errors import EchoschedError, UsageError
from echosched.protocols import Facts
from echosched.web import answers
from echosched.web.endpoints import Answer, Endpoint, read
from echosched.web.keys import KeyGuard
from echosched.web.settings import BODY_LIMIT_BYTES

logger = logging.getLogger(__name__)

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_BODY_SECONDS = 10.0
_OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/dashboard", "/favicon.ico"})

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


def host_is_allowed(header: str | None, allowed: frozenset[str]) -> bool:
    """Tell whether a request may be meant for this server, by its Host header.

    DNS rebinding needs a name that the attacker controls, so plain addresses and loopback names
    always pass, other names only if they are *allowed*.
    """
    match = _HOST.fullmatch(header or "")
    if match is None:
        return False
    name = match["name"].lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost") or name in allowed:
        return True
    try:
        ipaddress.ip_address(name.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True


def presented_key(request: web.Request) -> str | None:
    """Return the key that the request carries, from ``X-Dash-Key`` or ``Authorization: Bearer``."""
    key = request.headers.get("X-Dash-Key")
    if key is not None:
        return key
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" and value.strip() else None


class Guard:
    """The gate, shared by all endpoints of one server."""

    def __init__(
        self,
        keys: KeyGuard,
        allowed_hosts: tuple[str, ...],
        guard_seconds: float,
        state: Callable[[], Awaitable[Facts]],
    ) -> None:
        self._keys = keys
        self._allowed = frozenset(name.lower().rstrip(".") for name in allowed_hosts)
        self._guard_seconds = guard_seconds
        self._state = state
        # Work that outlived its request; referenced here, since the loop alone would let it be collected.
        self._late: set[asyncio.Task[Any]] = set()

    async def __call__(self, request: web.Request, proceed: Next) -> web.StreamResponse:
        """Let a request through to its endpoint, or answer it here; never raises for what a client does."""
        try:
            refusal = self._turned_away(request)
            # Not "or": a response is a mapping, and aiohttp before 3.9 finds an empty mapping false.
            return refusal if refusal is not None else await proceed(request)
        except web.HTTPException as error:
            return answers.of_http(error)
        except EchoschedError as error:
            return answers.of_error(error)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:  # the boundary around a request: told, logged, and the server goes on
            logger.exception("request failed: %s %s", request.method, request.path)
            return answers.bad(500, "a bug in the web server (its log has the traceback)")

    def _turned_away(self, request: web.Request) -> web.Response | None:
        if not host_is_allowed(request.headers.get("Host"), self._allowed):
            return answers.bad(
                403,
                "this server is not known under that host name (add it to web.allowed_hosts)",
                code="bad_host",
            )
        if request.path in _OPEN_PATHS or request.path.startswith("/static/"):
            return None
        key = presented_key(request)
        if key is None:
            return answers.bad(
                401,
                "a key is needed (header X-Dash-Key, or Authorization: Bearer)",
                headers={"WWW-Authenticate": "Bearer"},
            )
        client = request.remote or "?"
        if self._keys.right(key):
            self._keys.forgive(client)
            return _too_large(request)
        wait = self._keys.wrong(client)
        if wait > 0:
            seconds = max(1, round(wait))
            return answers.bad(
                429,
                f"too many wrong keys (wait {seconds} s; the right key is served at any time)",
                headers={"Retry-After": str(seconds)},
            )
        logger.warning("wrong key from %s", client)
        return answers.bad(401, "wrong key", headers={"WWW-Authenticate": "Bearer"})

    async def serve(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Read the body and parameters of *request* and let *endpoint* answer, within the guard's time."""
        body = await _body(request) if endpoint.method == "POST" else {}
        call = read(endpoint, request, body)
        if not endpoint.guarded:
            return _response(await endpoint.handler(call))
        work = asyncio.ensure_future(endpoint.handler(call))
        # wait, not wait_for: the work goes on when the time is up, and when the client has gone.
        done, _ = await asyncio.wait({work}, timeout=self._guard_seconds)
        if done:
            return _response(work.result())
        self._late.add(work)
        work.add_done_callback(self._late_ended)
        return answers.good({"status": "Still working", "data": await self._state()}, 202)

    def _late_ended(self, work: asyncio.Task[Any]) -> None:
        self._late.discard(work)
        if not work.cancelled() and (error := work.exception()) is not None:
            logger.warning("a request that had been answered with 202 failed: %s", error)

    async def close(self) -> None:
        """Give up work that outlived its request."""
        for work in self._late:
            work.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)


def _too_large(request: web.Request) -> web.Response | None:
    """Refuse a body by its announced length, before a byte of it is read; chunked ones stop at the limit."""
    if (request.content_length or 0) <= BODY_LIMIT_BYTES:
        return None
    return answers.bad(413, "the body is larger than 1 MiB", headers={"Connection": "close"})


def _response(answer: Answer | web.StreamResponse) -> web.StreamResponse:
    return answers.good(answer.fields, answer.status) if isinstance(answer, Answer) else answer


async def _body(request: web.Request) -> Mapping[str, Any]:
    """Return the request's JSON object, empty if there is none; bounded in size and in time."""
    if not request.can_read_body:
        return {}
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            raw = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except (
        ConnectionError
    ):  # it left before all of it was said: nobody hears the answer, and no bug is to be logged
        raise UsageError("body: is not complete") from None
    if not raw:
        return {}
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise UsageError("body: must be a JSON object (or empty)") from None
    if not isinstance(body, dict):
        raise UsageError("body: must be a JSON object (or empty)")
    return body
