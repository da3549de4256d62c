"""Start, stop and restart the scheduler from the web server.

Normally that is the command line's own ``start``, run as a subprocess: it detaches the daemon, waits
for READY and says what went wrong, and the daemon is nobody's child afterwards. On hosts that end
detached processes the scheduler would die with it; there it runs as this process's own foreground
child and leaves when this process does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable

from echosched.clock import SystemClock
from echosched.errors import (
    EX_CONFIG,
    EX_NOPERM,
    EX_NOT_CONFIGURED,
    EX_NOT_RUNNING,
    EX_PRIVILEGE,
    ConfigError,
    DaemonError,
    EchoschedError,
    NotRunning,
    PermissionRefused,
    StartFailed,
)
from echosched.protocols import Facts
from echosched.web.settings import WebSettings

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_OUTPUT_LIMIT_BYTES = 64 * 1024


class Lifecycle:
    """Starts and stops one scheduler, one operator's wish at a time."""

    def __init__(self, settings: WebSettings, status: Callable[[], Awaitable[Facts]]) -> None:
        self._settings = settings
        self._status = status
        self._turn = asyncio.Lock()
        self._child: asyncio.subprocess.Process | None = None
        self._reaper: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Return the scheduler's pid once it is ready; raises ``StartFailed`` or ``ConfigError`` with the reason."""
        async with self._turn:
            return await self._start()

    async def stop(self) -> None:
        """Stop the scheduler; no error if there is none."""
        async with self._turn:
            await self._stop()

    async def restart(self) -> int:
        """Stop and start; a configuration that would not start is refused first and changes nothing."""
        async with self._turn:
            if self._is_ours():
                await self._run("check")
                await self._stop()
                return await self._start()
            await self._run("restart")
            return await self._pid()

    async def close(self) -> None:
        """Stop a scheduler that is this process's own child, since it could not outlive us."""
        async with self._turn:
            if self._child is not None and self._child.returncode is None:
                with contextlib.suppress(EchoschedError):
                    await self._stop()
            if self._reaper is not None:
                self._reaper.cancel()

    async def _start(self) -> int:
        status = await self._status()
        if status.get("running") and status.get("pid"):
            return int(status["pid"])
        if ends_detached_processes():
            return await self._start_child()
        await self._run("start")
        return await self._pid()

    async def _stop(self) -> None:
        await self._run("stop")
        if self._child is not None:
            await self._child.wait()
            self._child = None

    def _is_ours(self) -> bool:
        return ends_detached_processes() or (self._child is not None and self._child.returncode is None)

    async def _pid(self) -> int:
        pid = (await self._status()).get("pid")
        if pid is None:
            raise StartFailed("scheduler: it said READY and was gone a moment later (see the journal)")
        return int(pid)

    async def _start_child(self) -> int:
        """Run the scheduler in the foreground below this process and wait until it is ready."""
        child = await asyncio.create_subprocess_exec(
            *self._command("start", "--foreground"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,  # the same lines are in the journal
            stderr=asyncio.subprocess.PIPE,
            env=_environment(),
        )
        last = _Tail(child)
        self._child, self._reaper = child, asyncio.create_task(last.drain(), name="scheduler-stderr")
        clock = SystemClock()
        deadline = clock.monotonic() + self._settings.start_wait_seconds
        while clock.monotonic() < deadline:
            if child.returncode is not None:
                await self._reaper
                self._child = None
                raise _failure("start", child.returncode, last.line)
            status = await self._status()
            # Its pid in the pidfile comes before READY; only READY counts as started.
            if status.get("running") and status.get("ready"):
                return int(status["pid"] or child.pid)
            await asyncio.sleep(_POLL_SECONDS)
        raise StartFailed(
            f"scheduler: not ready after {self._settings.start_wait_seconds:.0f} s (see the journal)"
        )

    async def _run(self, verb: str, *arguments: str) -> None:
        """Run ``echoschedd VERB``; raise the error that its exit code and last line tell."""
        process = await asyncio.create_subprocess_exec(
            *self._command(verb, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(),
        )
        # The detached daemon has its own stderr, so end-of-file comes with the command's end.
        tail = _Tail(process)
        await tail.drain()
        code = await process.wait()
        logger.info("echoschedd %s ended with %s", verb, code)
        if code != 0:
            raise _failure(verb, code, tail.line)

    def _command(self, verb: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "echosched.cli", verb, *self._settings.path_options, *arguments]


class _Tail:
    """Reads a process's stderr to its end and remembers what it said last."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._stream = process.stderr
        self._text = b""

    async def drain(self) -> None:
        """Read until the process has closed its end."""
        while self._stream is not None and (chunk := await self._stream.read(4096)):
            self._text = (self._text + chunk)[-_OUTPUT_LIMIT_BYTES:]

    @property
    def line(self) -> str:
        """Return what it said of its failure, or last."""
        lines = [line for line in self._text.decode("utf-8", "replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("echoschedd:")] or lines[-1:]
        return "\n".join(line.removeprefix("echoschedd:").strip() for line in errors)


def _failure(verb: str, code: int, line: str) -> EchoschedError:
    words = line or f"echoschedd {verb} ended with exit code {code}"
    if code in (EX_NOT_CONFIGURED, EX_CONFIG):
        return ConfigError(words)
    if code in (EX_PRIVILEGE, EX_NOPERM):
        return PermissionRefused(words)
    if code == EX_NOT_RUNNING:
        return NotRunning(words)
    return StartFailed(words) if verb in ("start", "restart") else DaemonError(words)


def _environment() -> dict[str, str]:
    """Return ours, since ``${env:…}`` in jobs is resolved there, less what is meant for us only."""
    environment = dict(os.environ)
    environment.pop("NOTIFY_SOCKET", None)  # ours, if any: the scheduler must not report in our name
    return environment


def ends_detached_processes() -> bool:
    """Tell whether this host is known to end detached processes."""
    from echosched.daemon.host import foreground_reason

    return foreground_reason() is not None


__all__ = ["Lifecycle", "ends_detached_processes"]
