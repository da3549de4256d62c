"""A scheduler on a clock that is moved by hand, with jobs that end when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from echosched.errors import ExecutionError
from echosched.model import Attempt, CommandAction, Job, Policy, Result, State
from echosched.schedule import parse_schedule
from echosched.scheduler import Scheduler
from echosched.testing import FakeClock, MemoryStore, RecordingSink
from tests.scripted import ScriptedExecution

START = datetime(2026, 3, 1, tzinfo=UTC)
AHEAD = timedelta(seconds=0.2)


class ScriptedExecutor:
    """Starts attempts in memory. *script* decides: a result to end with at once, ``None`` to run on, an error."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.started: list[ScriptedExecution] = []
        self.script: Callable[[Attempt], Result | ExecutionError | None] = lambda attempt: Result(
            State.SUCCEEDED, 0
        )

    async def start(self, attempt: Attempt) -> ScriptedExecution:
        outcome = self.script(attempt)
        if isinstance(outcome, ExecutionError):
            raise outcome
        execution = ScriptedExecution(attempt, self.clock.now(), outcome)
        self.started.append(execution)
        return execution

    async def close(self) -> None:
        return None

    @property
    def slots(self) -> list[datetime | None]:
        return [execution.attempt.slot for execution in self.started]


@dataclass
class Rig:
    """Everything a scheduler test needs, and the passing of time."""

    clock: FakeClock
    store: MemoryStore
    sink: RecordingSink
    executor: ScriptedExecutor
    scheduler: Scheduler
    jobs: dict[str, Job] = field(default_factory=dict)

    async def begin(self, *jobs: Job) -> None:
        self.jobs = {job.name: job for job in jobs}
        await self.scheduler.load(self.jobs)
        self.scheduler.begin()
        await settle()

    async def restart(self, *jobs: Job) -> None:
        """Crash this scheduler and begin a new one on the same store."""
        await self.scheduler.quiesce()
        self.scheduler = make_scheduler(self.clock, self.store, self.sink, self.executor)
        await self.begin(*(jobs or self.jobs.values()))

    async def pass_time(self, by: timedelta) -> None:
        """Let *by* pass, stopping at every slot on the way."""
        end = self.clock.now() + by
        while (due := self.scheduler.roster.heap.first()) is not None and due <= end.timestamp():
            ahead = datetime.fromtimestamp(due, UTC) - self.clock.now()
            self.clock.advance(max(ahead, timedelta(0)))
            await settle()
        self.clock.advance(end - self.clock.now())
        await settle()

    async def states(self, job: str) -> list[State]:
        return [run.state for run in reversed(await self.store.history(job=job, limit=10_000))]


async def settle() -> None:
    """Let the loop do everything that needs no time."""
    for _ in range(100):
        await asyncio.sleep(0)


async def advance(rig: Rig, by: timedelta) -> None:
    """Let *by* pass at once."""
    rig.clock.advance(by)
    await settle()


def make_scheduler(
    clock: FakeClock, store: MemoryStore, sink: RecordingSink, executor: ScriptedExecutor, **options: Any
) -> Scheduler:
    return Scheduler(store=store, executor=executor, clock=clock, sinks=[sink], **options)


def make_job(name: str = "job", schedule: str | None = "* * * * *", **options: Any) -> Job:
    policy = Policy(**{key: options.pop(key) for key in list(options) if key in Policy.__slots__})
    parsed = None if schedule is None else parse_schedule(schedule, options.get("timezone", "UTC"), name=name)
    return Job(
        name,
        CommandAction("true"),
        parsed,
        schedule or "",
        policy=policy,
        timing=schedule or "",
        definition=repr(policy),
        **options,
    )


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    clock, store, sink = FakeClock(START), MemoryStore("here"), RecordingSink()
    await store.open()
    executor = ScriptedExecutor(clock)
    rig = Rig(clock, store, sink, executor, make_scheduler(clock, store, sink, executor))
    yield rig
    await rig.scheduler.quiesce()
    for execution in executor.started:
        execution.cancel("test over", state=State.CANCELLED, kill_after=timedelta(0))
    await settle()
    await store.close()


@pytest.fixture
def early(rig: Rig) -> Rig:
    """A scheduler that claims a little before slots come, as a daemon does."""
    rig.scheduler = make_scheduler(rig.clock, rig.store, rig.sink, rig.executor, ahead=AHEAD.total_seconds())
    return rig
