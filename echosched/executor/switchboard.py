"""HTTP calls made by processes that outlive this program.

One :mod:`~echosched.executor.caller` process, started for the first call, forks a child for each: a few
milliseconds, where an interpreter of its own with aiohttp would take a quarter of a second. The children are
watched, ended and found again like the processes of commands. Resolved secrets travel over a socket, never by
arguments or environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import socket
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from echosched.errors import ExecutionError, OutputUnavailable
from echosched.executor import caller, output
from echosched.executor.command import GONE
from echosched.executor.environment import MARK
from echosched.executor.exchange import resolve
from echosched.executor.secrets import Redactor
from echosched.executor.task import in_thread
from echosched.model import Attempt, HttpAction, ProcessIdentity

if TYPE_CHECKING:
    import subprocess

    from echosched.executor.command import CommandExecutor
    from echosched.executor.watch import ProcessExecution

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 5.0
_PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "RES_OPTIONS",
    "LOCALDOMAIN",
    "HOSTALIASES",
)


class Switchboard:
    """Has calls made; belongs to the loop. *home* watches their processes."""

    def __init__(self, home: CommandExecutor) -> None:
        self._home = home
        self._line: _Line | None = None
        self._opening = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._closed = False

    async def start(self, attempt: Attempt) -> ProcessExecution:
        """Begin the call of *attempt*; raises ``ExecutionError`` for what is wrong before anything is sent."""
        self._home.warm()
        action, options = attempt.job.action, self._home.options
        assert isinstance(action, HttpAction)  # noqa: S101  (the dispatcher's case)
        assert options.trace_path is not None  # noqa: S101  (likewise)
        path = attempt.output_path or options.trace_path(attempt.run, attempt.number)
        attempt = replace(attempt, output_path=path)
        redactor = Redactor(options.resolve)
        resolved, failure = await in_thread("http", resolve, action, redactor)
        if failure is not None:
            raise failure
        order = {
            "mark": self._home.mark(attempt),
            "output": os.path.abspath(path),
            "keep": attempt.job.policy.output,
            "limit": attempt.job.policy.output_limit,
            "secrets": sorted(redactor.values),
            "action": asdict(resolved),
        }
        return self._home.take_over(attempt, await self._place(attempt, path, order))

    async def _place(self, attempt: Attempt, path: str, order: dict[str, Any]) -> ProcessIdentity:
        for _ in range(2):
            line = await self._open()
            try:
                return await line.ask({"id": next(self._numbers), **order})
            except _LineLost:
                if not await asyncio.to_thread(output.never_started, path):
                    # Somebody killed the caller; the call itself is on its way, or over.
                    found = await asyncio.to_thread(self._home.find, attempt)
                    return found or GONE
                await asyncio.to_thread(output.unbar, path)
        raise ExecutionError("http: the process that makes calls was killed, twice")

    async def warm(self) -> None:
        """Start the caller, so that the first call need not wait for its imports."""
        try:
            await self._open()
        except (ExecutionError, OSError):
            log.exception("the process that makes HTTP calls cannot be started")

    async def _open(self) -> _Line:
        async with self._opening:
            if self._closed:
                raise ExecutionError("not started: the executor was closed")
            if self._line is None or self._line.lost:
                self._line = await _Line.open()
            return self._line

    async def close(self) -> None:
        """Let the caller end; calls under way go on."""
        async with self._opening:
            self._closed = True
            line, self._line = self._line, None
        if line is not None:
            await line.close()


class _LineLost(Exception):
    """The caller ended while an order was on its way."""


class _Line:
    """A caller process and the socket to it."""

    def __init__(self, process: subprocess.Popen[bytes], writer: asyncio.StreamWriter) -> None:
        self.lost = False
        self._process = process
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[ProcessIdentity]] = {}
        self._listener: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls) -> _Line:
        ours, theirs = socket.socketpair()
        with theirs:
            process, failure = await in_thread("caller", _launch, theirs)
        if failure is not None:
            ours.close()
            raise ExecutionError(
                f"http: the process that makes calls cannot be started: {failure}"
            ) from failure
        reader, writer = await asyncio.open_connection(sock=ours)
        line = cls(process, writer)
        line._listener = asyncio.get_running_loop().create_task(line._listen(reader), name="http caller")
        return line

    async def ask(self, order: dict[str, Any]) -> ProcessIdentity:
        """Send *order*; return the process that takes it on."""
        future: asyncio.Future[ProcessIdentity] = asyncio.get_running_loop().create_future()
        if self.lost:
            raise _LineLost
        self._waiting[order["id"]] = future
        data = json.dumps(order).encode("ascii")
        self._writer.write(len(data).to_bytes(4, "big") + data)
        with contextlib.suppress(ConnectionError):  # the listener says so
            await self._writer.drain()
        return await future

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        failed: Exception = _LineLost()
        try:
            while line := await reader.readline():
                document = json.loads(line)
                if "failed" in document:
                    failed = ExecutionError(f"http: {document['failed']}")
                    continue
                future = self._waiting.pop(document["id"], None)
                if future is None or future.done():
                    continue
                if "error" in document:
                    kind = (
                        OutputUnavailable
                        if document.get("kind") == OutputUnavailable.code
                        else ExecutionError
                    )
                    future.set_exception(kind(document["error"]))
                else:
                    future.set_result(ProcessIdentity(document["pid"], document["ticks"]))
        except (ConnectionError, ValueError, KeyError):
            log.exception("the line to the process that makes HTTP calls broke")
        finally:
            self.lost = True
            self._writer.close()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(failed)
            self._waiting.clear()
            await in_thread("caller", self._wait)

    def _wait(self) -> None:
        import subprocess

        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    async def close(self) -> None:
        """End the line; the caller ends by itself then."""
        self._writer.close()
        if self._listener is not None:
            await self._listener


def _launch(theirs: socket.socket) -> subprocess.Popen[bytes]:
    import subprocess

    # The mark comes first, as with a command; /proc shows a child whatever it writes over it.
    env = {MARK: "." * caller.ROOM}
    env |= {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-P", os.path.abspath(caller.__file__)],
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=env,
        cwd="/",
        start_new_session=True,
    )
