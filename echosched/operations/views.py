"""The operations that only look: for dashboards and for whoever follows what happens.

A page with thousands of jobs must not cost a slot its punctuality: these take a few milliseconds of the
loop at a time, and none of them touches the store unless it says so.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from echosched.clock import rfc3339, to_micros
from echosched.model import Job, Run, State
from echosched.operations.arguments import MAX_ROWS, bounded, instant
from echosched.operations.description import describe
from echosched.operations.slots import simulate, slot_row, slots_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from echosched.scheduler import Scheduler
    from echosched.scheduler.entries import LiveRun

DESCRIBED_AT_ONCE = 20


class Views:
    """The looking half of :class:`~echosched.operations.verbs.Operations`."""

    _journal_path: str
    _redact: Callable[[str], str]

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._defined: list[Job] = []
        self._defined_count = 0
        self._life = f"{os.getpid()}.{to_micros(scheduler.clock.now())}"

    async def roster(self) -> dict[str, Any]:
        """Return what changes of the jobs in force, from memory alone, in a few milliseconds for thousands.

        ``rows`` are ``[name, next slot in microseconds since the epoch, enabled, paused, parked, last run]``,
        ``running`` the live runs. What does not change is told by :meth:`definitions`, as of ``version``.
        """
        entries = self._scheduler.roster.entries.values()
        return {
            "version": self._version(),
            "rows": [
                [
                    entry.job.name,
                    None if entry.slot is None else to_micros(entry.slot),
                    entry.job.enabled,
                    entry.paused,
                    entry.parked,
                    entry.last_run,
                ]
                for entry in entries
            ],
            "running": [
                {"job": entry.job.name, **live_row(live)}
                for entry in entries
                for live in entry.active.values()
            ],
        }

    def _version(self) -> str:
        """Return a name for the definitions in force: another one once any of them is another object."""
        jobs = [entry.job for entry in self._scheduler.roster.entries.values()]
        if len(jobs) != len(self._defined) or any(
            a is not b for a, b in zip(jobs, self._defined, strict=True)
        ):
            self._defined = jobs
            self._defined_count += 1
        return f"{self._life}.{self._defined_count}"

    async def definitions(self) -> dict[str, Any]:
        """Return what the jobs in force are, by name, and the ``version`` of that."""
        version, jobs = self._version(), self._defined
        found = {}
        for number, job in enumerate(jobs):
            if number % DESCRIBED_AT_ONCE == 0:
                await asyncio.sleep(0)  # explaining thousands of schedules must not hold up a slot
            found[job.name] = {
                "name": job.name,
                "description": job.description,
                "schedule": job.schedule_text,
                "timezone": job.timezone,
                **describe(job, self._redact),
            }
        return {"version": version, "jobs": found}

    def _row(self, run: Run) -> dict[str, Any]:
        row = run.as_dict()
        # The right to start is written ahead of the start: until then people should read "queued".
        if run.state is State.RUNNING and run.started_at is None:
            live = self._scheduler.runs.live.get(run.run)
            if live is None or not live.running:
                row["state"] = str(State.QUEUED)
        return row

    async def timeline(self, start: str, end: str, limit: int = 5000) -> dict[str, Any]:
        """Return the runs that were queued between *start* and *end*, and the slots to come in that time."""
        begin, finish = instant("start", start), instant("end", end)
        limit = bounded("limit", limit, MAX_ROWS)
        now = self._scheduler.clock.now()
        runs = await self._scheduler.store.history(since=begin, until=finish, limit=limit)
        coming: list[dict[str, Any]] = []
        for entry in self._scheduler.roster.entries.values():
            if len(coming) >= limit:
                break
            coming += [
                slot_row(entry.job, at) for at in slots_of(entry, max(now, begin), until=finish, n=200)
            ]
        coming.sort(key=lambda slot: str(slot["at"]))
        return {"now": rfc3339(now), "runs": [self._row(run) for run in runs], "next": coming[:limit]}

    async def coming(self, start: str, end: str, n: int = 200, limit: int = 5000) -> dict[str, list[int]]:
        """Return the slots to come between *start* and *end*, at most *n* of each job and *limit* of all.

        By job, in microseconds since the epoch. The loop goes on between two jobs.
        """
        begin, finish = instant("start", start), instant("end", end)
        n, limit = bounded("n", n, MAX_ROWS), bounded("limit", limit, MAX_ROWS)
        begin = max(self._scheduler.clock.now(), begin)
        found: dict[str, list[int]] = {}
        for entry in list(self._scheduler.roster.entries.values()):
            if limit <= 0:
                break
            slots = [to_micros(at) for at in slots_of(entry, begin, until=finish, n=min(n, limit))]
            if slots:
                found[entry.job.name] = slots
                limit -= len(slots)
                await asyncio.sleep(0)
        return found

    async def simulate(self, start: str, end: str, job: str | None = None) -> list[dict[str, Any]]:
        """Return every slot between two instants, of *job* or of all jobs in force, in order."""
        begin, finish = instant("start", start), instant("end", end)
        entries = self._scheduler.roster.entries
        wanted = list(entries.values()) if job is None else [self._scheduler.roster.entry(job)]
        return simulate([(entry.job, entry.schedule) for entry in wanted], begin, finish)

    async def follow(self, after: str | None = None, last: int = 0) -> AsyncIterator[dict[str, Any]]:
        """Yield journal events with an ``id``: those behind *after*, or the *last* ones, then every new one."""
        from echosched.journal import afollow, parse

        async for position, text in afollow(self._journal_path, last=last, position=after):
            event = parse(text)
            if event is not None:
                yield {"id": position, "event": event}


def live_row(live: LiveRun) -> dict[str, Any]:
    """Return what can be told of a run that has not ended."""
    return {
        "run": live.run,
        "state": str(State.RUNNING if live.running else State.QUEUED),
        "attempt": live.attempt,
        "trigger": str(live.trigger),
        "slot": None if live.slot is None else rfc3339(live.slot),
        "started_at": None if live.started_at is None else rfc3339(live.started_at),
    }
