"""Looking after what nobody looks after: runs of dead instances, lost tickets, words that were not heard."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from echosched import events
from echosched.model import Ended, OnAbandoned, Result, Run, State
from echosched.scheduler.core import wants
from echosched.scheduler.tell import run_fields

if TYPE_CHECKING:
    from echosched.scheduler.cluster import ClusterScheduler

MEND_EVERY = 12
"""Every so many sweeps also look for tickets that were lost, and for ends that nothing followed."""

FOLLOW_SECONDS = 900.0
"""How long after the end of a run one that should have followed it is looked for."""


class Sweeper:
    """Sweeps for *scheduler*. Any instance does it for all; where two do it at once, the rows decide."""

    def __init__(self, scheduler: ClusterScheduler) -> None:
        self._scheduler = scheduler
        self._sweeps = 0
        self._changes = -1
        self._since: dict[
            str, datetime
        ] = {}  # by follower: after which slots it is in force, as far as known

    async def sweep(self) -> None:
        """Sweep once."""
        scheduler, store = self._scheduler, self._scheduler.store
        await scheduler.rights.give_back()
        scheduler.messages.cancel_here(await store.cancelled())
        dead = await store.dead_runs()
        if dead:
            await self._abandon(dead)
        self._note_followers()
        self._sweeps += 1
        if self._sweeps % MEND_EVERY == 0:
            for run in await store.mend(scheduler.clock.now()):
                scheduler.tell_ended(run)
            await scheduler.start_lost()
            await scheduler.messages.refresh()
            await self.follow_up()

    def _note_followers(self) -> None:
        """Keep since when followers are in force: their cursors move on over a slot that was lost."""
        roster = self._scheduler.roster
        if self._changes != roster.changes:  # a reload or a pause: what ended meanwhile may not be followed
            self._changes = roster.changes
            self._since.clear()
        for followers in roster.followers.values():
            for entry in followers:
                if entry.job.enabled and not entry.paused:
                    self._since.setdefault(entry.job.name, entry.cursor_at)
                else:
                    self._since.pop(entry.job.name, None)

    async def follow_up(self) -> None:
        """Start what should have followed runs whose hosts died between their end and that."""
        scheduler, roster = self._scheduler, self._scheduler.roster
        if not (scheduler.runs.starting and roster.followers):
            return
        self._note_followers()
        wanted = [
            (job, entry.job.name, self._since[entry.job.name])
            for job, followers in roster.followers.items()
            for entry in followers
            if entry.job.name in self._since
        ]
        for name, slot, state in await scheduler.store.unfollowed(wanted, FOLLOW_SECONDS):
            entry = roster.entries.get(name)
            if entry is not None and entry.job.after is not None and wants(entry.job.after.when, state):
                await scheduler.follow_up(name, slot)

    async def _abandon(self, runs: Sequence[Run]) -> None:
        now = self._scheduler.clock.now()
        lives, ends = [], []
        for run in runs:
            if run.run in self._scheduler.runs.live:
                continue  # ours, and alive
            live = self._scheduler.roster.live(run)
            live.started_at = run.started_at
            retry_at = now if live.job.policy.on_abandoned is OnAbandoned.RETRY else None
            why = f"instance {run.owner} was not heard of for its lease, and its end was not seen"
            result = Result(State.ABANDONED, error=why)
            lives.append(live)
            ends.append(Ended(run.run, run.job, run.attempt, now, result, retry_at))
        recorded = await self._scheduler.store.abandon(ends)
        for live, ended, fresh in zip(lives, ends, recorded, strict=True):
            if not fresh:
                continue
            if ended.retry_at is not None:
                fields = run_fields(live)
                self._scheduler.emit(
                    events.RunRetry(ts=now, **fields, retry_at=now, error=ended.result.error)
                )
                continue
            self._scheduler.runs.tell_end(live, ended)
            self._scheduler.start_followers(live, State.ABANDONED)
        self._scheduler.worker.wake()
