"""Instances of a cluster inside the test's own loop: everything real but the jobs, which end when the test says so."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from echosched.clock import SharedClock
from echosched.model import Attempt, CommandAction, Job, Policy, ProcessIdentity, Result, Run, State
from echosched.schedule import parse_schedule
from echosched.scheduler.cluster import ClusterScheduler
from echosched.scheduler.recovery import follow_up
from echosched.store.postgres_cluster import ClusterStore, Myself
from echosched.testing import RecordingSink
from tests.scripted import ScriptedExecution

DEADLINE = 60.0
SHORT_LEASE = 1.5
"""Of instances that die in a test. All others have a lease that no pause of a busy machine outlasts."""

_pids = itertools.count(1000)


class Instance:
    """One instance: a real store and scheduler under a name."""

    def __init__(
        self,
        dsn: str,
        schema: str,
        name: str,
        *,
        labels: tuple[str, ...] = (),
        capacity: int = 64,
        heartbeat: float = 0.3,
        lease: float = 20.0,
        home: str | None = None,
    ) -> None:
        self.name = name
        self.clock = SharedClock()
        self.sink = RecordingSink()
        self.attempts: list[ScriptedExecution] = []
        self.script: Callable[[Attempt], Result | None] = lambda attempt: Result(State.SUCCEEDED, 0)
        myself = Myself(name, home or name, "here", 1, "1.0", lease, labels)
        self.store = ClusterStore(dsn, myself, schema=schema, connect_seconds=15.0)
        self.scheduler = ClusterScheduler(
            store=self.store,
            clock=self.clock,
            heartbeat=timedelta(seconds=heartbeat),
            executor=self,
            sinks=[self.sink],
            max_concurrent=capacity,
        )

    async def start(self, attempt: Attempt) -> ScriptedExecution:
        """Begin an attempt; the executor's part."""
        attempted = ScriptedExecution(
            attempt, self.clock.now(), self.script(attempt), ProcessIdentity(next(_pids), 1)
        )
        self.attempts.append(attempted)
        return attempted

    async def begin(self, *jobs: Job) -> None:
        """Take part with *jobs*."""
        table = {job.name: job for job in jobs}
        await self.store.open()
        await self.scheduler.join(table)
        await self.scheduler.load(table)
        self.scheduler.begin()
        await follow_up(self.scheduler)

    async def leave(self) -> None:
        """Stop as a daemon does."""
        await self.scheduler.stop(0.1)
        await self.scheduler.leave(gone=True)
        await self.store.close()

    async def vanish(self) -> None:
        """End without a word, as by a power cut: no end of a run is recorded any more, no beat comes."""
        self.store.up.clear()
        await self.scheduler.contact.stop()
        self.store.up.clear()
        await self.scheduler.quiesce()
        for task in list(self.scheduler._tasks):
            task.cancel()
        await self.store.link.close()

    @property
    def started(self) -> list[int]:
        """Return the numbers of the runs that began here."""
        return [attempted.attempt.run for attempted in self.attempts]

    def attempt_of(self, run: int) -> ScriptedExecution:
        """Return the latest attempt of a run that began here."""
        return next(one for one in reversed(self.attempts) if one.attempt.run == run)


def job(name: str, schedule: str | None = None, **options: Any) -> Job:
    """Return a job; policies by their names."""
    policy = Policy(**{key: options.pop(key) for key in list(options) if key in Policy.__slots__})
    parsed = None if schedule is None else parse_schedule(schedule, "UTC", name=name)
    return Job(
        name,
        CommandAction("true"),
        parsed,
        schedule or "",
        policy=policy,
        timing=schedule or "",
        definition=options.pop("definition", f"{abs(hash(policy)):016x}"[:16]),
        **options,
    )


async def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait until *condition* holds (it may be awaitable); return its value."""
    end = asyncio.get_running_loop().time() + DEADLINE
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert asyncio.get_running_loop().time() < end, f"did not come about: {what or condition}"
        await asyncio.sleep(0.02)


async def ended(instance: Instance, run: int) -> Run:
    """Return a run when it has ended."""
    async with asyncio.timeout(DEADLINE):
        return await instance.scheduler.wait(run)


def soon(seconds: float = 1.0) -> datetime:
    """Return an instant that comes soon, on a whole millisecond."""
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)
