"""What the web server asks of the scheduler, and the real answer: the control socket.

The server asks the worker over its socket, and reads the worker's health from the files that ``status``
reads, so that a dead or hung scheduler is something that the page shows and not something that
hangs the page. While there is no scheduler, what only reads is answered from the records.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from echosched.clock import SystemClock
from echosched.errors import Conflict, NotRunning, StoreError, Unreachable
from echosched.journal.read import Follower, afollow, parse
from echosched.operations.offline import Records
from echosched.operations.stored import StoredReads
from echosched.protocols import Facts
from echosched.web.jobs import Jobs
from echosched.web.lifecycle import Lifecycle
from echosched.web.settings import WebSettings

logger = logging.getLogger(__name__)

CALL_TIMEOUT_SECONDS = 20.0
CALLS_AT_ONCE = 8
STATUS_SECONDS = 1.0
RESUME_LIMIT_BYTES = 2 * 1024 * 1024


class Backend(Protocol):
    """The scheduler, as seen from the web server."""

    async def call(self, op: str, /, **args: Any) -> Any:
        """Do one operation in the worker; raises an ``EchoschedError`` with the worker's code and words."""

    def follow(self, after: str | None) -> AsyncIterator[tuple[str, Facts]]:
        """Yield ``(id, event)`` for every journal event behind id *after* (``None``: new ones), for ever.

        Raises an ``EchoschedError`` for an *after* that it cannot go on from.
        """

    async def journal(self, n: int, wanted: Callable[[Facts], bool]) -> tuple[list[Facts], str]:
        """Return the last *n* *wanted* events, oldest first, and the id behind which to :meth:`follow` on."""

    async def status(self) -> Facts:
        """Return ``status --json``; also when there is no scheduler, and never late because of a hung one."""

    async def start(self) -> int:
        """Start the scheduler and return its pid once it is ready; the same pid if it runs already."""

    async def stop(self) -> None:
        """Stop the scheduler and wait until it is gone."""

    async def restart(self) -> int:
        """Stop and start; return the new pid."""

    async def close(self) -> None:
        """Release what is held."""


class DaemonBackend:
    """The :class:`Backend` of a real daemon.

    At most a few calls are with the worker at once: a crowd of browsers queues up here, where it costs the
    scheduler nothing.
    """

    def __init__(self, settings: WebSettings) -> None:
        # Imported here: the control client brings the configuration's world with it, which tests of
        # the server alone do without.
        from echosched.control.aio import AsyncControlClient

        self._settings = settings
        self._client = AsyncControlClient(settings.paths.socket)
        self._turn = asyncio.Semaphore(CALLS_AT_ONCE)
        self._records = Records(settings.paths)
        self._stored = StoredReads(settings.paths.db, self._ask)
        self._jobs = Jobs(self._ask)
        self._clock = SystemClock()
        self._status: tuple[float, Facts] | None = None
        self._lifecycle = Lifecycle(settings, self.status)

    async def call(self, op: str, /, **args: Any) -> Any:
        """Do one operation where it costs the scheduler least: what only reads runs, beside it, in the file."""
        if op == "jobs":
            return await self._jobs.documents(
                self._stored.last_runs if await self._file_is_the_truth() else None
            )
        if op in StoredReads.OPERATIONS and await self._file_is_the_truth():
            try:
                return await self._stored.call(op, args)
            except StoreError as error:
                logger.info("%s: asking the worker instead: %s", op, error)
        return await self._ask(op, **args)

    async def _file_is_the_truth(self) -> bool:
        """Tell whether runs may be read from the file: not where a database on the network, or memory, knows more."""
        now = self._clock.monotonic()
        if self._status is None or now - self._status[0] > STATUS_SECONDS:
            self._status = (now, await self.status())
        return bool(self._status[1].get("store_file") == self._settings.paths.db)

    async def _ask(self, op: str, /, **args: Any) -> Any:
        """Do one operation in the worker; without one, answer from the records if it only reads."""
        # An operation that waits in the worker on purpose brings its own limit.
        limit = float(args.get("timeout_seconds") or 0.0) + CALL_TIMEOUT_SECONDS
        if "timeout_seconds" in args:
            return await self._limited(limit, op, args)
        async with self._turn:
            return await self._limited(limit, op, args)

    async def _limited(self, limit: float, op: str, args: dict[str, Any]) -> Any:
        try:
            async with asyncio.timeout(limit):
                try:
                    return await self._client.call(op, **args)
                except NotRunning:
                    return await self._records.call(op, args)
        except TimeoutError:
            raise Unreachable(
                f"scheduler: no answer to {op!r} within {limit:.0f} s (see its status; restart it if stalled)"
            ) from None

    async def follow(self, after: str | None) -> AsyncIterator[tuple[str, Facts]]:
        """Follow the journal's file, across rotations.

        Not the worker's stream: the file costs the worker nothing, and the supervisor writes there too,
        just when there is no worker to ask. Raises ``Conflict`` for a place too far back.
        """
        if after is not None and not self._is_near(after):
            raise Conflict("the event lies too far back to go on from there (read the journal anew)")
        async with contextlib.aclosing(afollow(self._settings.paths.log, position=after)) as lines:  # type: ignore[type-var]
            async for position, line in lines:
                if (event := parse(line)) is not None:
                    yield position, event

    def _is_near(self, place: str) -> bool:
        """Tell whether what was written since *place* can be read at one go without holding up the others."""
        inode, _, offset = place.partition(":")
        if not (inode.isdecimal() and offset.isdecimal()):
            return False
        behind = 0
        for name in (self._settings.paths.log, f"{self._settings.paths.log}.1"):
            try:
                found = os.stat(name)
            except OSError:
                continue
            if found.st_ino == int(inode):
                return 0 <= behind + found.st_size - int(offset) <= RESUME_LIMIT_BYTES
            behind += found.st_size
        return False

    async def journal(self, n: int, wanted: Callable[[Facts], bool]) -> tuple[list[Facts], str]:
        """Return the last *n* *wanted* events and the place behind them."""
        return await asyncio.to_thread(self._journal, n, wanted)

    def _journal(self, n: int, wanted: Callable[[Facts], bool]) -> tuple[list[Facts], str]:
        def keep(line: str) -> bool:
            event = parse(line)
            return event is not None and wanted(event)

        follower = Follower(self._settings.paths.log, last=n, keep=keep)
        try:
            events = [parse(line) for line in follower.read()]
            return [event for event in events if event is not None], follower.position
        finally:
            follower.close()

    async def status(self) -> Facts:
        """Return ``status --json`` from the files that the daemon keeps."""
        from echosched.control.client import full_status

        status = await asyncio.to_thread(full_status, self._settings.paths)
        self._status = (self._clock.monotonic(), status)
        return status

    async def start(self) -> int:
        """Start the scheduler; return its pid."""
        return await self._lifecycle.start()

    async def stop(self) -> None:
        """Stop the scheduler."""
        await self._lifecycle.stop()

    async def restart(self) -> int:
        """Stop and start the scheduler; return the new pid."""
        return await self._lifecycle.restart()

    async def close(self) -> None:
        """End what this process alone keeps alive."""
        await self._lifecycle.close()
