"""Looking after what nobody looks after: runs of dead instances, lost tickets, words that were not heard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from echosched import events
from echosched.model import Ended, OnAbandoned, Result, Run, State
from echosched.scheduler.tell import run_fields

if TYPE_CHECKING:
    from echosched.scheduler.cluster import ClusterScheduler

MEND_EVERY = 12
"""Every so many sweeps also look for tickets that were lost."""


class Sweeper:
    """Sweeps for *scheduler*. Any instance does it for all; where two do it at once, the rows decide."""

    def __init__(self, scheduler: ClusterScheduler) -> None:
        self._scheduler = scheduler
        self._sweeps = 0

    async def sweep(self) -> None:
        """Sweep once."""
        scheduler, store = self._scheduler, self._scheduler.store
        await scheduler.rights.give_back()
        scheduler.messages.cancel_here(await store.cancelled())
        dead = await store.dead_runs()
        if dead:
            await self._abandon(dead)
        self._sweeps += 1
        if self._sweeps % MEND_EVERY == 0:
            for run in await store.mend(scheduler.clock.now()):
                scheduler.tell_ended(run)
            await scheduler.start_lost()
            await scheduler.messages.refresh()

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
