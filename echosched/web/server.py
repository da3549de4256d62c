"""The web server: puts the parts together, listens, and leaves when told.

aiohttp alone waits for ever for a client that never finishes its first request line, and answers
malformed requests in plain text; :class:`_Connection` adds the deadline and the uniform answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from echosched.clock import SystemClock
from echosched.errors import UsageError
from echosched.protocols import Clock
from echosched.web import answers, keys, openapi
from echosched.web.api import Api
from echosched.web.backend import Backend, DaemonBackend
from echosched.web.endpoints import Answer, Call, Endpoint
from echosched.web.guard import Guard
from echosched.web.live import EventHub
from echosched.web.pages import Pages
from echosched.web.routes import endpoints
from echosched.web.settings import BODY_LIMIT_BYTES, GUARD_SECONDS, Announce, WebSettings

logger = logging.getLogger(__name__)

HEADER_SECONDS = 10.0
"""A connection must have sent a whole request head within this time of being made."""

KEEPALIVE_SECONDS = 30.0
CONNECTIONS_AT_ONCE = 512


def make_app(
    backend: Backend,
    *,
    key: str,
    allowed_hosts: tuple[str, ...] = (),
    guard_seconds: float = GUARD_SECONDS,
    clock: Clock | None = None,
) -> web.Application:
    """Return the whole web application over *backend*; needs a running loop only when it is started."""
    clock = clock or SystemClock()
    hub = EventHub(backend)
    api = Api(backend, clock, hub, guard_seconds)
    guard = Guard(keys.KeyGuard(key, clock), allowed_hosts, guard_seconds, api.reads.status)

    @web.middleware
    async def gate(
        request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]
    ) -> web.StreamResponse:
        if isinstance(request.protocol, _Connection):
            request.protocol.head_complete()
        return await guard(request, handler)

    # One more: some versions of aiohttp refuse a body of exactly this size.
    app = web.Application(middlewares=[gate], client_max_size=BODY_LIMIT_BYTES + 1)
    table = endpoints(api)
    table.append(
        Endpoint(
            "GET",
            "/openapi.json",
            "openapi",
            "This document",
            _document(table),
            content_type="application/json",
        )
    )
    for endpoint in table:
        handler = _handler(guard, endpoint)
        if endpoint.method == "GET":
            # HEAD as well, as load balancers ask it of /healthz; a stream has no head without a body.
            app.router.add_get(endpoint.path, handler, allow_head=endpoint.guarded)
        else:
            app.router.add_route(endpoint.method, endpoint.path, handler)
    pages = Pages()
    app.router.add_get("/", pages.front)
    app.router.add_get("/dashboard", pages.dashboard)
    app.router.add_get("/static/{path:.+}", pages.static)

    async def leave(_: web.Application) -> None:
        api.leaving.set()

    async def close(_: web.Application) -> None:
        await guard.close()
        await hub.close()
        await backend.close()

    app.on_shutdown.append(leave)
    app.on_cleanup.append(close)
    return app


def _handler(guard: Guard, endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await guard.serve(endpoint, request)

    return handle


def _document(table: list[Endpoint]) -> Callable[[Call], Awaitable[Answer | web.StreamResponse]]:
    async def handle(_: Call) -> web.StreamResponse:
        # The one answer without "ok": its form is OpenAPI's own.
        body = answers.encode(openapi.document(table))
        return web.Response(body=body, content_type="application/json", headers=answers.SECURITY_HEADERS)

    return handle


class _Connection(web.RequestHandler):
    """aiohttp's connection, with a deadline for the first request and JSON for what cannot be parsed."""

    _deadline: asyncio.TimerHandle | None = None

    def __init__(self, manager: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=2.0,
            access_log=None,  # type: ignore[arg-type]
        )
        self._server = manager

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request; one connection too many is closed."""
        super().connection_made(transport)
        # Beyond the limit the newcomer goes: those being served matter more.
        crowded = len(self._server.connections) > CONNECTIONS_AT_ONCE
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(0.0 if crowded else HEADER_SECONDS, transport.close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Wait for nothing any more."""
        self.head_complete()
        super().connection_lost(exc)

    def head_complete(self) -> None:
        """The first request has arrived; aiohttp's keep-alive time rules from here on."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer in the API's form what aiohttp could not make sense of."""
        if status >= 500:
            logger.error("request failed: %s", request.path, exc_info=exc)
        else:
            logger.debug("malformed request from %s: %s", request.remote, message)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        words = "the request is not well-formed HTTP" if status == 400 else "a bug in the web server"
        response = answers.bad(status, words)
        response.force_close()
        return response


class WebServer:
    """A listening server: ``start`` it, read its :attr:`url`, ``close`` it."""

    def __init__(self, app: web.Application, host: str, port: int) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Return the port that it listens on."""
        if self._server is None:
            raise RuntimeError("the server does not listen")
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Return the address to type into a browser."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Listen; raises :class:`UsageError` when the address cannot be had."""
        runner = web.AppRunner(self._app, handle_signals=False, access_log=None, shutdown_timeout=3.0)
        await runner.setup()
        manager = runner.server
        loop = asyncio.get_running_loop()
        if manager is None:
            raise RuntimeError("aiohttp set up no server")

        def connection() -> _Connection:
            return _Connection(manager, loop)

        self._runner = runner
        try:
            self._server = await loop.create_server(connection, self._host, self._port, backlog=256)
        except (OSError, OverflowError) as error:
            await runner.cleanup()
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            raise UsageError(
                f"web: cannot listen on {self._host}:{self._port}: {why} (choose another with --host, --port)",
                exit_code=1,
            ) from error

    async def close(self) -> None:
        """Stop listening, end streams, let short requests finish."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()


async def serve(
    settings: WebSettings,
    announce: Announce,
    *,
    backend: Backend | None = None,
    stop: asyncio.Event | None = None,
    clock: Clock | None = None,
    ready: Callable[[WebServer], None] | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or *stop*.

    *announce* gets the lines for the terminal: the address, and the key if it was made just now (the only
    time it is named). *ready* is called once it listens. Raises :class:`UsageError` for an address or a key
    that cannot be used.
    """
    key = keys.load_key(os.environ, settings.key_path, settings.host)
    stop = stop or asyncio.Event()
    app = make_app(
        backend or DaemonBackend(settings),
        key=key.value,
        allowed_hosts=_known_as(settings),
        guard_seconds=settings.guard_seconds,
        clock=clock,
    )
    server = WebServer(app, settings.host, settings.port)
    await server.start()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        announce(f"dashboard: {server.url}/dashboard")
        if key.origin == "made":
            announce(f"key: {key.value} (named this once; kept in {key.path})")
        else:
            announce(f"key: from {keys.ENVIRONMENT if key.origin == 'environment' else key.path}")
        if ready is not None:
            ready(server)
        await stop.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        await server.close()


def _known_as(settings: WebSettings) -> tuple[str, ...]:
    """Return the names under which this server may be addressed: configured ones, and the one it listens on."""
    named = () if settings.host in ("0.0.0.0", "::", "") else (settings.host,)  # noqa: S104 - compared, not bound
    return (*settings.allowed_hosts, *named)
