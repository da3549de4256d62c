"""Ends on their way into the store: collected, committed together, and told when they are durable.

Commit before telling, so that nobody hears of a run that the store forgot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from echosched.model import Ended
from echosched.protocols import Clock, Store
from echosched.scheduler.entries import LiveRun
from echosched.scheduler.queue import StartQueue

log = logging.getLogger(__name__)

TOLD_AT_ONCE = 10
"""How many committed ends are told and settled in one turn of the loop: less than 1 ms."""

CROWD = 8
COLLECT_SECONDS = 0.01
"""While more than a crowd runs, ends are collected for so long before each commit: in a burst every commit
takes from the starts what it costs, and nobody waits for an end whose place is free already."""

STARTS_FIRST_SECONDS = 0.5
"""The same while others wait for a place: until they have begun, what can wait does. An ended process is reaped
only after the commit, so a crash in between loses no exit code."""


class Ends:
    """The ends that no commit holds yet.

    *committed* is called with each run, its end, and whether that was news to the store; *at_rest* when no end is left.
    *on_write*: the seconds that a commit took.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        queue: StartQueue,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        committed: Callable[[LiveRun, Ended, bool], None],
        at_rest: Callable[[], None],
        on_write: Callable[[float], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._queue = queue
        self._spawn = spawn
        self._told = committed
        self._at_rest = at_rest
        self._on_write = on_write
        self._waiting: list[tuple[LiveRun, Ended]] = []
        self._paced_at = 0.0  # when the next commit may begin
        self._settled = asyncio.Event()
        self._settled.set()
        self.pace_seconds = 0.0
        """The least time between two commits, where each is dear."""

    @property
    def are_settled(self) -> bool:
        """Tell whether every end known so far is committed and told."""
        return self._settled.is_set()

    async def settle(self) -> None:
        """Wait until that is so."""
        await self._settled.wait()

    def add(self, live: LiveRun, ended: Ended) -> None:
        """Commit *ended* with the next batch."""
        self._waiting.append((live, ended))
        if self.are_settled:
            self._settled.clear()
            self._spawn(self._commit())

    async def _commit(self) -> None:
        try:
            while self._waiting:
                await self._collect()
                batch, self._waiting = self._waiting, []
                begun = self._clock.monotonic()
                recorded = await self._record([ended for _, ended in batch])
                self._on_write(self._clock.monotonic() - begun)
                for count, ((live, ended), fresh) in enumerate(zip(batch, recorded, strict=True), 1):
                    if fresh is not None:
                        self._told(live, ended, fresh)
                    if count % TOLD_AT_ONCE == 0:
                        await asyncio.sleep(0)
        finally:
            self._settled.set()
            self._at_rest()

    async def _record(self, ends: Sequence[Ended]) -> list[bool | None]:
        """Commit *ends*; if the store refuses them, each for itself: one must not cost the others.

        One that is not recorded (``None``) is not settled: the next worker learns of it what this one did.
        """
        try:
            return list(await self._store.finish(ends))
        except Exception:
            log.exception("ends cannot be recorded; each is tried again for itself")
        recorded: list[bool | None] = []
        for ended in ends:
            try:
                recorded += await self._store.finish([ended])
            except Exception:
                log.exception("run %s of %s: its end cannot be recorded", ended.run, ended.job)
                recorded.append(None)
        return recorded

    async def _collect(self) -> None:
        if self._queue.placed > CROWD:
            await asyncio.sleep(STARTS_FIRST_SECONDS if self._queue.waiting else COLLECT_SECONDS)
        elif (wait := self._paced_at - self._clock.monotonic()) > 0:
            await asyncio.sleep(wait)
        self._paced_at = self._clock.monotonic() + self.pace_seconds
