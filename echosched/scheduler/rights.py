"""The right to start: which attempts may begin on this instance, and how others get those that may not, or shall not.

A run that was taken is this instance's as long as its lease holds. Between taking and start a host may be stopped, cut
off, drained or upgraded; what has not begun by then is given back as a ticket.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from echosched.errors import OUTSIDE
from echosched.model import Trigger
from echosched.scheduler.entries import LiveRun
from echosched.store.postgres_turns import Held

if TYPE_CHECKING:
    from echosched.scheduler.cluster import ClusterScheduler

log = logging.getLogger(__name__)

REMEMBERED = 100_000
"""So many latest attempts are known to have begun here."""


class Rights:
    """The right to start attempts on *scheduler*'s instance: each once, and only while it is certain to be its own.

    None begins here twice, whatever the database seems to say.
    """

    def __init__(self, scheduler: ClusterScheduler) -> None:
        self._scheduler = scheduler
        self._begun: dict[tuple[int, int], None] = {}  # the latest attempts, oldest first
        self._withdrawn: dict[tuple[int, int], Held] = {}  # to be given back
        self._retaken: set[tuple[int, int]] = set()  # of those, what came here again before that was known
        self._giving = asyncio.Lock()

    def begin(self, run: int, attempt: int) -> bool:
        """Note that an attempt begins here; tell whether that is new."""
        key = run, attempt
        if key in self._begun:
            return False
        self._begun[key] = None
        if len(self._begun) > REMEMBERED:
            del self._begun[next(iter(self._begun))]
        return True

    def begin_taken(self, run: int, attempt: int) -> bool:
        """Note the same of an attempt whose ticket was taken here: it may be one that is just being given back."""
        if (run, attempt) in self._withdrawn:
            self._retaken.add((run, attempt))
        return self.begin(run, attempt)

    def due_at(self, live: LiveRun) -> float:
        """Return when the slot of *live* comes, its jitter counted in (epoch seconds; 0 for one without)."""
        if live.slot is None or live.trigger is not Trigger.SCHEDULE:
            return 0.0
        return self._scheduler.roster.due_at(live.entry, live.slot)

    def may_begin(self, live: LiveRun) -> bool:
        """Tell whether *live* is still this instance's to start; if that is not certain, it is anybody's again.

        A host that was stopped, or is cut off, cannot know whether the others have given up its runs.
        """
        contact = self._scheduler.contact
        if contact.certain:
            return True
        contact.hurry()
        if not self._withdrawn:
            asyncio.get_running_loop().call_soon(lambda: self._scheduler.spawn(self.give_back()))
        self._withdraw(live)
        return False

    def _withdraw(self, live: LiveRun) -> None:
        due = self.due_at(live)
        coming = due > self._scheduler.clock.now().timestamp()
        self._scheduler.runs.withdraw(live)
        held = Held(live.run, live.attempt, datetime.fromtimestamp(due, UTC) if coming else None)
        self._withdrawn[live.run, live.attempt] = held

    async def give_back(self) -> None:
        """Let others start what was taken here and may not, or shall not, begin here."""
        # One at a time: what was given back may come here again and begin, and must not be given back then.
        async with self._giving:
            while self._withdrawn and self._scheduler.contact.up:
                batch = dict(self._withdrawn)
                try:
                    await self._scheduler.store.give_back(list(batch.values()))
                except OUTSIDE as error:
                    log.debug("runs are given back when the database is: %s", error)
                    return
                for key in batch:
                    if key in self._retaken:
                        self._retaken.discard(key)  # taken between the commit and its answer: once more
                    else:
                        del self._withdrawn[key]
                        self._begun.pop(key, None)

    async def give_back_all(self) -> None:
        """Give back whatever was taken and has not begun."""
        for live in list(self._scheduler.runs.live.values()):
            if not (live.placed or live.over or live.running or live.cancelled):
                self._withdraw(live)
        await self.give_back()
