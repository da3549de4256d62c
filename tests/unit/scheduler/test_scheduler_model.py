"""Two simulated years of mixed jobs, with crashes and clock steps at any await, against a model.

The store is the one in memory (its contract is that of SQLite, which has its own crash tests); a life falls
silent before or after a write, or right after a start, as kill -9 would strike. The model is a list of what
must hold of rows and starts, whatever happened: one row for each due slot, no attempt started twice, an
outcome for every row, a reason for every slot that did not run.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from echosched import transitions
from echosched.errors import ExecutionError
from echosched.model import (
    After,
    Attempt,
    Catchup,
    Claim,
    Ended,
    Job,
    JobRecord,
    OnAbandoned,
    Overlap,
    ProcessIdentity,
    Result,
    Started,
    State,
    Trigger,
)
from echosched.scheduler import Scheduler, ends
from echosched.scheduler.recovery import Evidence, follow_up, recover
from echosched.testing import FakeClock, MemoryStore
from tests.scripted import ScriptedExecution

from .conftest import START, make_job

MONTHS_24 = timedelta(days=730)


class MortalStore(MemoryStore):
    """One life's view of the store that all lives share; at its n-th write that life ends."""

    def __init__(self, world: World) -> None:
        super().__init__("here")
        self._data = world.store._data
        self.world = world
        self.countdown: int | None = None
        self.dead = False

    async def _strike(self) -> None:
        if self.countdown is not None:
            self.countdown -= 1
            self.dead = self.dead or self.countdown <= 0
        if self.dead:
            await asyncio.Event().wait()  # nobody hears the answer, and nothing is written after this

    async def claim(self, claims: Sequence[Claim]) -> list[int | None]:
        await self._strike()
        answer = await super().claim(claims)
        await self._strike()
        return answer

    async def starting(self, numbers: Sequence[int]) -> None:
        await self._strike()
        await super().starting(numbers)
        await self._strike()

    def started(self, starts: Sequence[Started]) -> None:
        if not self.dead and self.world.chance.random() < 0.9:  # the others are lost with the next crash
            super().started(starts)

    async def finish(self, ends: Sequence[Ended]) -> list[bool]:
        await self._strike()
        answer = await super().finish(ends)
        await self._strike()
        return answer

    async def save_jobs(self, records: Iterable[JobRecord]) -> None:
        await self._strike()
        await super().save_jobs(records)


class MortalExecutor:
    """One life's hands."""

    def __init__(self, world: World, store: MortalStore) -> None:
        self.world = world
        self.store = store

    async def start(self, attempt: Attempt) -> ScriptedExecution:
        if self.store.dead:
            await asyncio.Event().wait()
        execution = self.world.start(attempt)
        if self.store.countdown is not None and self.world.chance.random() < 0.2:
            self.store.dead = True  # between the start and its first trace
            await asyncio.Event().wait()
        return execution

    async def close(self) -> None:
        return None


class World:
    """What survives a crash: the clock, the store, the processes, and what an observer wrote down."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = FakeClock(START)
        self.store = MemoryStore("here")
        self.starts: Counter[tuple[str, datetime | None, int]] = Counter()
        self.running: dict[str, ScriptedExecution] = {}  # by tag; processes outlive the scheduler
        self.begun: set[tuple[int, int]] = set()
        self.crashes = 0
        self.started_total = 0

    # the executor's side

    def start(self, attempt: Attempt) -> ScriptedExecution:
        if self.chance.random() < 0.002:
            raise ExecutionError("no new process")
        self.starts[(attempt.job.name, attempt.slot, attempt.number)] += 1
        self.started_total += 1
        self.begun.add((attempt.run, attempt.number))
        quick = self.chance.random() < 0.8
        result = Result(State.SUCCEEDED if self.chance.random() < 0.95 else State.FAILED, 0)
        execution = ScriptedExecution(attempt, self.clock.now(), result if quick else None)
        execution.process = ProcessIdentity(attempt.run * 10 + attempt.number, 1)
        if not quick:
            self.running[attempt.tag] = execution
        return execution

    def end_some(self) -> None:
        for tag in list(self.running):
            if self.chance.random() < 0.5:
                execution = self.running.pop(tag)
                if execution.cancelled is None:
                    execution.end(State.SUCCEEDED)

    # recovery's side

    def evidence(self) -> Evidence:
        def find(attempt: Attempt) -> ProcessIdentity | None:
            execution = self.running.get(attempt.tag)
            return None if execution is None else execution.process

        def adopt(attempt: Attempt, process: ProcessIdentity) -> ScriptedExecution:
            earlier = self.running.pop(attempt.tag, None)
            result = None if earlier is not None else Result(State.ABANDONED, error="nobody saw its end")
            execution = ScriptedExecution(attempt, self.clock.now(), result)
            execution.process = process
            if earlier is not None:
                self.running[attempt.tag] = execution
            return execution

        return Evidence(
            same_boot=True,
            held={},
            find=find,
            began=lambda run, attempt: (run, attempt) in self.begun,
            adopt=adopt,
            output_path=lambda run, attempt: None,
        )


def mixed_jobs(count: int, chance: random.Random) -> dict[str, Job]:
    schedules = [
        "0 * * * *", "*/30 8-17 * * 1-5", "0 8 * * *", "0 2 * * 0", "30 1 1 * *", "every 6h from 2026-01-01T00:00Z",
        "every 7h from 2026-01-01T00:00Z", "Mon..Fri *-*-* 08:00", "0 0 L * *", "15,45 */3 * * *",
    ]  # fmt: skip
    zones = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]
    jobs = {}
    for number in range(count):
        name = f"job{number}"
        jobs[name] = make_job(
            name,
            # Most are rare: two years of two hundred hourly jobs would only repeat themselves.
            chance.choices(
                schedules,
                [0, 0, 2, 20, 20, 1, 1, 2, 20, 0] if count > 100 else [1, 1, 6, 6, 6, 2, 2, 6, 6, 1],
            )[0],
            timezone=chance.choice(zones),
            overlap=chance.choice(list(Overlap)),
            catchup=chance.choice(list(Catchup)),
            on_abandoned=chance.choice([OnAbandoned.LEAVE, OnAbandoned.LEAVE, OnAbandoned.RETRY]),
            retries=chance.choice([0, 0, 2]),
            concurrency_group=chance.choice([None, None, None, "group"]),
        )
    for number in range(0, count, 20):
        name = f"after{number}"
        jobs[name] = make_job(name, None, after=After(f"job{number}"), overlap=Overlap.ALLOW)
    return jobs


class Life:
    """One scheduler's life, from recovery to crash."""

    def __init__(self, world: World, jobs: dict[str, Job]) -> None:
        self.world = world
        self.jobs = jobs
        self.store = MortalStore(world)
        self.scheduler = Scheduler(
            store=self.store,
            executor=MortalExecutor(world, self.store),
            clock=world.clock,
            sinks=[],
            max_concurrent=16,
        )

    async def begin(self) -> None:
        await self.scheduler.load(self.jobs)
        await recover(self.scheduler, self.world.evidence())
        self.scheduler.begin()
        await follow_up(self.scheduler)

    async def end(self) -> None:
        """Vanish: no task of this life takes another step."""
        self.store.dead = True
        self.scheduler._alarm.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def live_through(world: World, jobs: dict[str, Job], until: datetime, every: timedelta) -> None:
    """Let time pass to *until*, stopping at each slot, with a crash about *every* so often."""
    life = Life(world, jobs)
    await life.begin()
    next_crash = world.clock.now() + every
    while world.clock.now() < until:
        due = life.scheduler.roster.heap.first()
        ahead = timedelta(hours=1) if due is None else datetime.fromtimestamp(due, UTC) - world.clock.now()
        ahead = min(max(ahead, timedelta(seconds=1)), until - world.clock.now())
        world.clock.advance(ahead)
        if world.clock.now() >= next_crash:
            life.store.countdown = world.chance.randrange(1, 8)
            next_crash = world.clock.now() + every
        for _ in range(world.chance.choice((3, 12, 25))):
            await asyncio.sleep(0)
        world.end_some()
        if life.store.dead:
            world.crashes += 1
            await life.end()
            # Down for a while: minutes, or longer than the catch-up window.
            world.clock.advance(
                world.chance.choice((1, 1, 1, 50)) * timedelta(minutes=world.chance.randrange(1, 60))
            )
            if world.chance.random() < 0.2:
                world.clock.set(world.clock.now() - timedelta(minutes=world.chance.randrange(1, 90)))
            life = Life(world, jobs)
            await life.begin()
        elif world.chance.random() < 0.002:
            world.clock.set(world.clock.now() + timedelta(minutes=world.chance.randrange(-90, 90)))
    if life.store.dead:
        await life.end()
        life = Life(world, jobs)
        await life.begin()
    life.store.countdown = None
    for _ in range(200):
        world.end_some()
        world.clock.advance(timedelta(seconds=30))
        for _ in range(10):
            await asyncio.sleep(0)
    await life.scheduler.runs.settle()
    await life.scheduler.quiesce()
    await life.end()


def verify(world: World, jobs: dict[str, Job], since: datetime, until: datetime) -> Counter[str]:
    rows = list(world.store._data.runs.values())
    by_slot: dict[tuple[str, datetime], Any] = {}
    for row in rows:
        if row.slot is not None:
            assert (row.job, row.slot) not in by_slot, f"two rows: {row}"
            by_slot[(row.job, row.slot)] = row
    for job in jobs.values():
        if job.schedule is None:
            continue
        slot = job.schedule.next_after(since)
        while slot is not None and slot <= until:
            assert (job.name, slot) in by_slot, f"lost: {job.name} {slot}"
            slot = job.schedule.next_after(slot)
    for (name, slot, attempt), count in world.starts.items():
        assert count == 1, f"doubled: {name} {slot} attempt {attempt} was started {count} times"
        assert slot is None or (name, slot) in by_slot
    for row in rows:
        if row.slot is not None and row.slot <= until:
            assert row.state.is_outcome, f"without an outcome: {row}"
        if row.state in (State.SKIPPED, State.MISSED):
            assert row.error, f"no reason: {row}"
            assert world.starts[(row.job, row.slot, 1)] == 0, f"ran, though {row.state}: {row}"
        elif row.state is State.SUCCEEDED:
            assert world.starts[(row.job, row.slot, row.attempt)] == 1
    return Counter(str(row.state) for row in rows)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_two_years_of_two_hundred_jobs_with_crashes_at_any_write_lose_and_double_nothing(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ends, "COLLECT_SECONDS", 0)  # no time passes here but the clock's
    monkeypatch.setattr(ends, "STARTS_FIRST_SECONDS", 0)
    world = World(seed)
    jobs = mixed_jobs(200 if seed == 1 else 40, world.chance)
    await world.store.open()
    until = START + (MONTHS_24 if seed == 1 else MONTHS_24 / 6)
    await live_through(world, jobs, until, every=timedelta(days=5))
    states = verify(world, jobs, START, until)
    print(f"\nseed {seed}: {world.crashes} crashes, {world.started_total} starts, {dict(states)}")
    assert world.crashes >= 20
    assert states["succeeded"] >= 0.9 * (states["succeeded"] + states["failed"] + states["abandoned"])


def test_the_model_itself_notices_a_doubled_start_and_a_lost_slot() -> None:
    world = World(0)
    jobs = {"job": make_job(schedule="0 8 * * *")}
    until = START + timedelta(days=1)
    with pytest.raises(AssertionError, match="lost"):
        verify(world, jobs, START, until)
    slot = START + timedelta(hours=8)
    world.store._data.runs[1] = transitions.claimed(
        Claim("job", slot, Trigger.SCHEDULE, State.SKIPPED, slot, "why"), 1, "here"
    )
    verify(world, jobs, START, until)
    world.starts[("job", slot, 1)] = 2
    with pytest.raises(AssertionError, match="doubled"):
        verify(world, jobs, START, until)
