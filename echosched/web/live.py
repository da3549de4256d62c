"""The event hub: one follower of the journal and one watcher of the status for all open pages.

Fifty pages must cost the scheduler as much as one. The hub follows the journal once and keeps the
newest events encoded in a ring, which every page reads at its own pace: a slow page lags behind
and at worst is told that it missed something; it never makes anything grow.

The wire is server-sent events, read by ``fetch`` (so that the key can go in a header)::

    id: <the journal's event id>          event: status          event: reset
    data: {"ts":…,"event":…,…}            data: {status}         data: {}

``status`` comes at once and whenever the scheduler's condition changes, also while there is no scheduler.
``reset`` says that events were lost in between: fetch everything anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from echosched.errors import EchoschedError
from echosched.protocols import Facts
from echosched.web.answers import encode
from echosched.web.backend import Backend

logger = logging.getLogger(__name__)

RING_EVENTS = 2000
STATUS_SECONDS = 2.0
_RETRY_SECONDS = (0.25, 0.5, 1.0, 2.0)
_LINGER_SECONDS = 20.0
# After these the scheduler's condition is likely to be another one: look at once.
_TURNING_POINTS = frozenset(
    {
        "supervisor_start",
        "startup",
        "ready",
        "shutdown",
        "worker_exit",
        "worker_restart",
        "watchdog",
        "reload",
    }
)
_WATCHED = (
    "running",
    "pid",
    "worker_pid",
    "health",
    "restarts",
    "jobs",
    "cluster",
    "last_exit",
    "last_worker_exit",
    "next",
    "ready",
    "stopping",
)


@dataclass(frozen=True, slots=True)
class Item:
    """One encoded message. *event_id* is the journal's, ``None`` for the hub's own messages."""

    sequence: int
    event_id: str | None
    wire: bytes


def wire(data: Facts, *, event: str | None = None, event_id: str | None = None) -> bytes:
    """Return one server-sent event (JSON has no raw newlines, so one ``data`` line is enough)."""
    head = b"" if event_id is None else b"id: " + _one_line(event_id) + b"\n"
    if event is not None:
        head += b"event: " + event.encode() + b"\n"
    return head + b"data: " + encode(data) + b"\n\n"


def _one_line(text: str) -> bytes:
    return text.replace("\r", " ").replace("\n", " ").encode("utf-8", "replace")


class EventHub:
    """Follows while somebody listens, and a little longer, so that a page's reload finds its place."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._ring: deque[Item] = deque(maxlen=RING_EVENTS)
        self._sequence = 0
        self._news = asyncio.Event()
        self._listeners = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._leaving: asyncio.TimerHandle | None = None
        self._last_id: str | None = None
        self._status: bytes | None = None
        self._poke = asyncio.Event()

    @property
    def listeners(self) -> int:
        """Return how many pages listen."""
        return self._listeners

    def poke(self) -> None:
        """Look at the status now: an operator has just started or stopped something."""
        self._poke.set()

    async def listen(self, after: str | None) -> AsyncIterator[bytes]:
        """Yield chunks of encoded messages, those after event id *after* first (``None``: only new ones).

        An empty chunk means that there was nothing for a while: a sign of life is due.
        """
        self._arrive()
        try:
            place = self._sequence
            if after is not None:
                async for chunk, found in self._resume(after):
                    if chunk:
                        yield chunk
                    place = found
            if self._status is not None:
                yield self._status
            while True:
                chunk, place = self._since(place)
                if chunk:
                    yield chunk
                    # A page needs no more than some ten updates a second, and fifty pages share one loop.
                    await asyncio.sleep(0.1)
                    continue
                news = self._news
                try:
                    async with asyncio.timeout(10.0):
                        await news.wait()
                except TimeoutError:
                    yield b""
        finally:
            self._depart()

    def _since(self, place: int) -> tuple[bytes, int]:
        """Return what came after *place*, joined, and the new place."""
        if place >= self._sequence or not self._ring:
            return b"", place
        oldest = self._ring[0].sequence
        parts: list[bytes] = [wire({}, event="reset")] if place + 1 < oldest else []
        # From the right: a page that keeps up looks at a handful of items, not at the whole ring.
        fresh: list[bytes] = []
        for item in reversed(self._ring):
            if item.sequence <= place:
                break
            fresh.append(item.wire)
        return b"".join(parts + fresh[::-1]), self._sequence

    async def _resume(self, after: str) -> AsyncIterator[tuple[bytes, int]]:
        """Find the place after event *after*: in the ring, or by asking the worker for what came since."""
        place = self._place_of(after)
        if place is not None:
            yield b"", place
            return
        try:
            async with contextlib.aclosing(_closable(self._backend.follow(after))) as stream:
                async for event_id, event in stream:
                    place = self._place_of(event_id)
                    yield wire(event, event_id=event_id), place or self._sequence
                    if place is not None:
                        return  # from here on the ring knows the rest
        except (EchoschedError, OSError):
            yield wire({}, event="reset"), self._sequence

    def _place_of(self, event_id: str) -> int | None:
        for item in reversed(self._ring):
            if item.event_id == event_id:
                return item.sequence
        return None

    # ── the two sources ───────────────────────────────────────────────────────────────────────

    def _arrive(self) -> None:
        self._listeners += 1
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._follow(), name="web-follow"),
                asyncio.create_task(self._watch(), name="web-status"),
            ]

    def _depart(self) -> None:
        self._listeners -= 1
        if self._listeners == 0 and self._tasks:
            loop = asyncio.get_running_loop()
            self._leaving = loop.call_later(_LINGER_SECONDS, self._rest)

    def _rest(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks, self._status = [], None
        self._leaving = None

    async def close(self) -> None:
        """Stop following."""
        tasks = self._tasks
        if self._leaving is not None:
            self._leaving.cancel()
        self._rest()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _publish(self, message: bytes, event_id: str | None = None) -> None:
        self._sequence += 1
        self._ring.append(Item(self._sequence, event_id, message))
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                async for event_id, event in self._backend.follow(self._last_id):
                    failures = 0
                    self._last_id = event_id
                    self._publish(wire(event, event_id=event_id), event_id)
                    if event.get("event") in _TURNING_POINTS:
                        self._poke.set()
            except EchoschedError:
                # It has moved on further than we can read up on: begin anew, and say so.
                self._last_id = None
                self._publish(wire({}, event="reset"))
            except OSError as error:
                # Told once for each change of state, not once for each try.
                if not failures:
                    logger.warning("the journal cannot be followed: %s", error)
            await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
            failures += 1

    async def _watch(self) -> None:
        seen: object = None
        while True:
            try:
                status = await self._backend.status()
            except (EchoschedError, OSError) as error:
                status = {"running": False, "health": "unknown", "reason": str(error)}
            digest = [*(str(status.get(name)) for name in _WATCHED), _running(status)]
            self._status = wire(status, event="status")
            if digest != seen:
                seen = digest
                self._publish(self._status)
            self._poke.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STATUS_SECONDS):
                    await self._poke.wait()
                    # Pokes come in flocks when a daemon goes down; one look for all of them.
                    await asyncio.sleep(0.1)


def _running(status: Facts) -> str:
    runs = status.get("runs")
    return str((runs.get("running"), runs.get("queued"))) if isinstance(runs, dict) else ""


async def _closable(stream: AsyncIterator[tuple[str, Facts]]) -> AsyncGenerator[tuple[str, Facts], None]:
    """Turn any asynchronous iterator into a generator, which can be closed early."""
    async for item in stream:
        yield item
