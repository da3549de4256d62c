"""What the other instances say, and what is read where their words were missed.

Whoever changes something that concerns others says so in the transaction that changes it, and all hear of it when it
commits. A message is only a hint to look: the rows are the truth, and are read again after an outage and by the sweep.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from echosched.clock import from_micros
from echosched.errors import OUTSIDE
from echosched.model import State
from echosched.timer import call_later

if TYPE_CHECKING:
    from echosched.scheduler.cluster import ClusterScheduler

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.2
"""Several changes that arrive together are read at once."""

LATEST_SECONDS = 60.0
"""A ticket that is announced for later is looked for by then, whatever the clocks say."""


class Messages:
    """Does what the others' messages ask of *scheduler*."""

    def __init__(self, scheduler: ClusterScheduler) -> None:
        self._scheduler = scheduler
        self._refreshing = False

    def hear(self, message: dict[str, Any]) -> None:
        """Act on one message; those of other versions that mean nothing here are passed over."""
        scheduler = self._scheduler
        match message:
            case {"op": "cancel", "runs": [*runs], "reason": str(reason)}:
                self.cancel_here((run, reason) for run in runs)
            case {"op": "jobs", "by": by} if by != scheduler.name:
                self._pause_now(message.get("paused", ()))
                self._refresh_soon()
            case {"op": "later", "micros": int(micros)}:
                wait = (from_micros(micros) - scheduler.clock.now()).total_seconds()
                wait = min(max(wait, 0.0), LATEST_SECONDS) + 0.001
                call_later(scheduler.clock, wait, scheduler.worker.wake)
            case {"op": "definitions", "names": [*queues]} if scheduler.routes.passed_on(queues):
                scheduler.worker.wake()
            case {"op": "drain", "instance": scheduler.name, "draining": bool(draining)}:
                scheduler.contact.draining = draining
                scheduler.worker.wake()
                if draining:
                    scheduler.spawn(scheduler.rights.give_back_all())
            case {"op": "joined", "by": by} if by != scheduler.name:
                scheduler.contact.hurry()
            case {"op": "missed"}:
                self._refresh_soon()
                scheduler.contact.hurry()
                scheduler.worker.wake()

    def cancel_here(self, wanted: Iterable[tuple[int, str]]) -> None:
        """End those of the runs, each with its reason, that run here."""
        for run, reason in wanted:
            live = self._scheduler.runs.live.get(run)
            if live is not None:
                self._scheduler.runs.cancel_live(live, State.CANCELLED, reason)

    def _pause_now(self, names: Iterable[str]) -> None:
        """Start nothing more of jobs that another instance has paused, also where their slots were claimed already."""
        for name in names:
            entry = self._scheduler.roster.entries.get(name)
            if entry is not None and not entry.paused:
                self._scheduler.roster.set_paused(entry, paused=True)

    def _refresh_soon(self) -> None:
        if not self._refreshing:
            self._refreshing = True
            scheduler = self._scheduler
            call_later(scheduler.clock, REFRESH_SECONDS, lambda: scheduler.spawn(self._refresh_quietly()))

    async def _refresh_quietly(self) -> None:
        self._refreshing = False
        try:
            await self.refresh()
        except OUTSIDE as error:
            log.debug("what others changed is read when the database is back: %s", error)

    async def refresh(self, *, anew: bool = False) -> None:
        """Take over what other instances and operators have changed: pauses, how far slots are accounted for.

        *anew*: also where the database has less; see :meth:`echosched.scheduler.roster.Roster.take_over`.
        """
        self._scheduler.roster.take_over(await self._scheduler.store.load_jobs(), anew=anew)
        await self._scheduler.routes.work_out()
