"""``web``: the dashboard and API server, in the foreground; and as a daemon for ``service``."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Any

from echosched.cli.session import count_of, paths_of
from echosched.errors import EchoschedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from echosched.config.paths import Paths
    from echosched.daemon.presence import Presence
    from echosched.web.settings import WebSettings


def web(arguments: dict[str, Any]) -> int:
    """Serve until a signal ends it."""
    paths = paths_of(arguments)
    asyncio.run(_alone(settings_of(paths, arguments["--host"], port_of(arguments)), paths))
    return 0


async def _alone(settings: WebSettings, paths: Paths) -> None:
    """Serve without a supervisor, and be seen all the same by ``service status`` and ``service stop``.

    Only once it listens: a server that cannot have its address leaves no trace of a life.
    """
    from echosched.web.server import serve

    with contextlib.ExitStack() as life:

        def ready(_: object) -> None:
            presence = _present(paths)
            if presence is not None:
                life.enter_context(presence)
                _keep_on(presence.keep, presence.beat.interval_seconds)
                presence.ready()

        await serve(settings, _announce, ready=ready)


def _present(paths: Paths) -> Presence | None:
    """Return this server's presence; ``None``, with a line that says why, where it can have none."""
    from echosched.app.daemon import web_settings
    from echosched.daemon.lock import read_pid
    from echosched.daemon.presence import Presence

    settings = web_settings(paths)
    settings.mode = "foreground"
    try:
        presence = Presence.take(settings)
        if presence is not None:
            return presence
        pid = read_pid(settings.paths.pidfile)
        why = f"it shows another one{f', pid {pid}' if pid else ''}"
    except OSError as error:
        why = f"{error.filename or settings.paths.pidfile}: {error.strerror}"
    print(f"echoschedd: web: service status will not show this server: {why}", file=sys.stderr, flush=True)
    return None


def _keep_on(act: Callable[[], None], seconds: float) -> None:
    act()
    asyncio.get_running_loop().call_later(seconds, _keep_on, act, seconds)


def _announce(line: str) -> None:
    print(line, flush=True)


def port_of(arguments: dict[str, Any]) -> int | None:
    """Return the port that the options name, ``None`` for the configured one."""
    if arguments["--port"] is None:
        return None
    port = count_of("--port", arguments["--port"])
    if port > 65535:
        raise UsageError(f"--port: {port} is out of range (0 to 65535)")
    return port


def settings_of(paths: Paths, host: str | None, port: int | None) -> WebSettings:
    """Return the web server's settings; a broken configuration does not keep the dashboard from saying so."""
    from echosched.config.load import load
    from echosched.config.settings import WebConfig
    from echosched.errors import ConfigError
    from echosched.web.settings import WebSettings

    try:
        config = load(paths=paths).web
    except ConfigError as error:
        _announce(f"configuration: {error.problems[0]} (serving with the defaults)")
        config = WebConfig()
    return WebSettings.of(paths, config, host=host, port=port)


def worker(paths: Paths, host: str | None, port: int | None) -> int:
    """Be the web server below a supervisor (``service start web``)."""
    from echosched.daemon.link import WorkerLink

    link = WorkerLink.from_environment()
    if link is None:
        raise EchoschedError("this is started by echoschedd service, not by hand (echoschedd web)")
    try:
        asyncio.run(_supervised(link, settings_of(paths, host, port)))
    except EchoschedError as error:
        link.failed(error.exit_code, str(error))
        return error.exit_code
    return 0


async def _supervised(link: Any, settings: WebSettings) -> None:
    from echosched.daemon.beat import Beat
    from echosched.web.server import serve

    loop = asyncio.get_running_loop()
    stop, go = asyncio.Event(), asyncio.Event()
    beat = Beat(link.beat_path)

    def listen() -> None:
        for message in link.receive():
            if message.op in ("stop", "retire", "eof"):
                stop.set()
            elif message.op == "go":
                go.set()
            elif message.op == "reopen":
                link.reopen_output()
            elif message.op == "reload":
                link.reloaded()  # it reads its settings when it starts; nothing to re-read

    loop.add_reader(link.fileno(), listen)
    if link.standby:
        link.ready("standing by")
        await go.wait()
    _keep_on(beat.beat, beat.interval_seconds)

    def announce(line: str) -> None:
        # This goes to a file: the key itself is told at the terminal, by whoever started us.
        _announce(line if not line.startswith("key: ") else f"key: kept in {settings.key_path}")

    await serve(
        settings, announce, stop=stop, ready=lambda server: link.ready(f"dashboard: {server.url}/dashboard")
    )
